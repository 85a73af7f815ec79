(() => {
  const root = document.documentElement;
  const button = document.querySelector(".toggle");
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const show = () => {
    button.textContent = dark() ? "Light theme" : "Dark theme";
  };
  // A browser may refuse to keep anything for a file that was opened from the disk.
  try {
    const kept = localStorage.getItem("predictbench-theme");
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch {}
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("predictbench-theme", root.dataset.theme);
    } catch {}
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  button.hidden = false;
  show();
})();
