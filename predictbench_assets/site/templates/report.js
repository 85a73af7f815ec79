(() => {
  const root = document.documentElement;
  const darkScheme = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : darkScheme.matches);
  // Before anything is drawn. A browser may refuse to keep anything for a file that was opened from the disk.
  try {
    const kept = localStorage.getItem("predictbench-theme");
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch {}
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.querySelector(".toggle");
    const show = () => {
      button.textContent = dark() ? "Light theme" : "Dark theme";
    };
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      try {
        localStorage.setItem("predictbench-theme", root.dataset.theme);
      } catch {}
      show();
    });
    darkScheme.addEventListener("change", show);
    button.hidden = false;
    show();
  });
})();
