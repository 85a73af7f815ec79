"""Experiments of `experiments.toml`: what is made of a table, and what is said of its mistakes."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predictbench_assets.experiments.declared import kinds
from predictbench_assets.experiments.declared.file import MOST_BYTES, DeclarationError, read_declarations, registry_of
from predictbench_assets.experiments.declared.table import Table
from predictbench_assets.experiments.protocol import Experiment, ExperimentResult
from predictbench_assets.experiments.registry import NAME_RULE, Registry, RegistryError, import_path
from predictbench_assets.launch.commands import shared_variables
from predictbench_assets.settings import BASELINE, Settings, load_settings

Declare = Callable[[str], Registry]

MODULE = """
from predictbench_assets.experiments import Experiment, ExperimentResult

class Scaled(Experiment):
    version = "3"
    description = "Scales."

    def __init__(self, factor: float = 1.0, *, words=()):
        self.factor, self.words = factor, words

    def run(self, market, context):
        return ExperimentResult.binary(0.5)

class Picky(Scaled):
    def __init__(self, factor):
        if factor > 1:
            raise ValueError("the factor is above 1")
        super().__init__(factor)

class Nameless(Scaled):
    description = ""

class Blind(Scaled):
    information = "blind"

class Leaving(Scaled):
    def __init__(self):
        raise SystemExit(3)

class Other:
    pass
"""


LLM = "[a]\nkind = 'language_model'\n"


class Worded(Experiment):
    """Says a word."""

    description = "Says a word."

    def __init__(self, word: str) -> None:
        self.word = word

    def run(self, market: Any, context: Any) -> ExperimentResult:
        return ExperimentResult.binary(0.5)


class WordTable(Table):
    """A kind of the tests."""

    word: str
    times: int = 1
    share: float = 0.5
    api_key: str | None = None

    def experiment(self, name: str, settings: Settings) -> Experiment:
        if self.word == "refused":
            raise ValueError("the word is refused")
        if self.api_key is not None and settings.provider_variable(self.api_key) is None:
            raise RegistryError(f"{self.api_key} is not set")
        return Worded(self.word)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the working folder, which no other test uses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = "declared_of_" + re.sub(r"\W", "_", tmp_path.name)
    (tmp_path / f"{name}.py").write_text(MODULE)
    return name


@pytest.fixture
def declare(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Declare:
    """The registry with a file of declared experiments, in which MODULE stands for the module's name."""
    monkeypatch.setattr(kinds, "KINDS", {**kinds.KINDS, "word": f"{__name__}:WordTable"})
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])

    def load(text: str) -> Registry:
        (tmp_path / "experiments.toml").write_text(dedent(text).replace("MODULE", module))
        return registry_of(load_settings(processing_experiments=(BASELINE,)))

    return load


def problems(declare: Declare, text: str) -> list[str]:
    with pytest.raises(DeclarationError) as refused:
        declare(text)
    return refused.value.problems


def test_without_a_file_there_is_nothing_declared(module: str) -> None:
    assert read_declarations(load_settings()) is None
    assert registry_of(load_settings(processing_experiments=(BASELINE,))).names == ("baseline_snapshot",)


def test_a_table_makes_an_experiment_of_any_class(declare: Declare, module: str) -> None:
    registry = declare(
        """
        [scaled]
        kind = "MODULE:Scaled"
        factor = 1.5
        words = ["a", "b"]
        [plain]
        kind = "MODULE:Scaled"
        version = "4"
        description = "Another."
        requires = ["scaled"]
        limits = {markets = 300, concurrency = 64, timeout_seconds = 30}
        shards = 8
        [plain.op_tags]
        "dagster/priority" = "10"
        "dagster-k8s/config".container_config.resources.limits."nvidia.com/gpu" = 1
        """
    )
    scaled, plain = registry["scaled"], registry["plain"]
    assert (scaled.name, scaled.kind, scaled.version, scaled.description) == (
        "scaled",
        f"{module}:Scaled",
        "3",
        "Scales.",
    )
    assert (scaled.factor, scaled.words, scaled.max_markets) == (1.5, ["a", "b"], None)  # type: ignore[attr-defined]
    assert (plain.version, plain.description, plain.requires) == ("4", "Another.", ("scaled",))
    assert (plain.max_markets, plain.max_concurrency, plain.timeout_seconds) == (300, 64, 30)
    gpu = {"container_config": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}
    assert (plain.shards, plain.op_tags) == (8, {"dagster/priority": "10", "dagster-k8s/config": gpu})
    assert (scaled.shards, scaled.op_tags) == (1, {})
    table = registry.table("plain")
    assert table is not None
    assert table.limits.concurrency == 64
    assert registry.table("baseline_snapshot") is None


def test_a_kind_has_a_table_of_its_own(declare: Declare) -> None:
    one = declare('[says]\nkind = "word"\nword = "hello"\nlimits.usd_per_day = 2.1')["says"]
    assert isinstance(one, Worded)
    assert (one.word, one.kind, one.version) == ("hello", "word", "1")


def test_arguments_decide_what_is_asked_again_and_limits_do_not(declare: Declare) -> None:
    def hash_of(rest: str) -> str:
        return declare(f'[scaled]\nkind = "MODULE:Scaled"\n{rest}').config_hash("scaled")

    assert hash_of("factor = 1.5") != hash_of("factor = 1.6")
    assert hash_of("factor = 1.5") == hash_of("factor = 1.5\nlimits.markets = 3")


def test_it_is_made_again_in_another_process_whatever_the_file_says_then(declare: Declare, tmp_path: Path) -> None:
    registry = declare('[scaled]\nkind = "MODULE:Scaled"\nfactor = 1.5')
    remake = pickle.dumps(registry.remake("scaled"))
    (tmp_path / "experiments.toml").unlink()
    code = "import pickle, sys; one = pickle.load(sys.stdin.buffer)(); print(one.name, one.factor)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        input=remake,
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert ran.stdout.split() == [b"scaled", b"1.5"]


def test_every_mistake_is_told_with_its_line_at_once(declare: Declare) -> None:
    told = problems(
        declare,
        """\
        [mini]
        kind = "langage_model"

        [Bad-Name]
        kind = "MODULE:Scaled"

        [a]
        kind = "MODULE:Scaled"
        facto = 2
        [a.limits]
        market = 3

        [b]
        kind = "word"
        wrod = "x"
        times = "3"
        share = nan
        limits = {markets = 0}
        requires = ["a", "nobody", "baseline_snapshoot"]
        [baseline_snapshot]
        kind = "MODULE:Scaled"
        """,
    )
    found = [problem.split(": ", 1) for problem in told]
    taken = f"PROCESSING_EXPERIMENTS lists {BASELINE!r}. Rename the table, or take that one off"
    assert [(place, text) for place, text in found if "[mini]" not in text] == [
        (
            "experiments.toml:4",
            f"[Bad-Name] the name of the table, 'Bad-Name', is not {NAME_RULE}",
        ),
        ("experiments.toml:9", "[a] Scaled takes no argument 'facto': did you mean 'factor'?"),
        ("experiments.toml:11", "[a] unknown key 'limits.market': did you mean 'markets'?"),
        ("experiments.toml:13", "[b] the key 'word' is missing"),
        ("experiments.toml:15", "[b] unknown key 'wrod': did you mean 'word'?"),
        ("experiments.toml:16", '[b] times: expected a whole number; it is "3"'),
        ("experiments.toml:17", "[b] share: expected a finite number"),
        ("experiments.toml:18", "[b] limits.markets: expected greater than or equal to 1; it is 0"),
        (
            "experiments.toml:19",
            "[b] requires 'baseline_snapshoot', which is no experiment: did you mean 'baseline_snapshot'?",
        ),
        ("experiments.toml:19", "[b] requires 'nobody', which is no experiment"),
        (
            "experiments.toml:20",
            f"[baseline_snapshot] the name 'baseline_snapshot' is taken: {taken}",
        ),
    ]
    assert told[0].startswith(
        "experiments.toml:2: [mini] unknown kind 'langage_model': did you mean 'language_model'? (there are "
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a]\nkind = ", "experiments.toml:2: Invalid value"),
        ("[a]\n\n[a]\n", "experiments.toml:3: Cannot declare ('a',) twice"),
        ('[a]\nkind = "x', "experiments.toml:2: Unterminated string"),
        ("x = " + "[" * 5_000, "experiments.toml:1: values within values"),
        ("kind = 'word'", "experiments.toml:1: [kind] the key 'kind' stands outside of a table"),
        ("\n[[a]]\nkind = 'word'", "experiments.toml:2: [a] is a list of tables: write [a]"),
        ("[a]\nword = 'x'", "experiments.toml:1: [a] has no kind: add one"),
        ("[a]\nkind = 3", "experiments.toml:2: [a] kind: expected a text in quotes; it is 3"),
        ("[a]\nkind = 'http.'", "unknown kind 'http.': did you mean 'http'?"),
        ("[a]\nkind = 'MODULE:Other'", "experiments.toml:2: [a] MODULE:Other is no subclass of Experiment"),
        ("[a]\nkind = 'MODULE:Skaled'", "has no Skaled, did you mean Scaled?"),
        ("[a]\nkind = 'nowhere:Skaled'", "experiments.toml:2: [a] kind = 'nowhere:Skaled', but there is no module"),
        ("[a]\nkind = 'MODULE:Picky'", "[a] it cannot be made: TypeError:"),
        ("[a]\nkind = 'MODULE:Picky'\nfactor = 2", "experiments.toml:1: [a] the factor is above 1"),
        ("[a]\nkind = 'MODULE:Nameless'", "experiments.toml:1: [a] Nameless has no description"),
        ("[a]\nkind = 'MODULE:Leaving'", "experiments.toml:1: [a] making it ended the program"),
        ("[a]\nkind = 'MODULE:Scaled'\nversion = 2", "[a] version: expected a text in quotes; it is 2"),
        ("[a]\nkind = 'MODULE:Scaled'\nversion = '?'", "[a] its version '?' is not a text of"),
        ("[a]\nkind = 'MODULE:Scaled'\nrequires = 'b'", 'requires: expected a list in brackets; it is "b"'),
        ("[a]\nkind = 'MODULE:Scaled'\nlimits = 3", "experiments.toml:3: [a] limits: "),
        ("[a]\nkind = 'MODULE:Scaled'\nlimits.timeout_seconds = 0", "expected greater than 0; it is 0"),
        (
            "[a]\nkind = 'MODULE:Scaled'\nshards = 0",
            "experiments.toml:3: [a] shards: expected greater than or equal to 1",
        ),
        ("[a]\nkind = 'MODULE:Scaled'\nop_tags = 'gpu'", "experiments.toml:3: [a] op_tags: expected a table"),
        ("[a]\nkind = 'MODULE:Scaled'\nop_tags.'a b' = '1'", "[a] its op_tags has the key 'a b'"),
        ("[a]\nkind = 'MODULE:Blind'\nrequires = ['baseline_snapshot']", "[a] may see 'blind' but requires"),
        ("[a]\nkind = 'word'\nword = 'refused'", "experiments.toml:1: [a] the word is refused"),
        ("[a]\nkind = 'word'\nword = 'x'\napi_key = 'NO_API_KEY'", "[a] NO_API_KEY is not set"),
        ("[a]\nkind = 'word'\nword = 'x'\napi_key = 'SPOILT_API_KEY'", "[a] SPOILT_API_KEY: has a blank in it"),
        ("[a]\nkind = 'word'\nword = 'x'\napi_key = 'sk-123'", "is no name of a provider's variable"),
        ("[a]\nkind = 'MODULE:Scaled'\nlimits = 3", "limits: expected a table; it is 3"),
        (f"{LLM}model = 'gpt-5-mini'", "experiments.toml:3: [a] model: expected provider:model, such as openai:"),
        (f"{LLM}model = 'openai:gpt\u200b-5'", r'it is "openai:gpt\u200b-5"'),
        (f"{LLM}model = 'openai:a'\nbase_url = 'ftp://x'", "experiments.toml:4: [a] base_url: expected an address"),
        (f"{LLM}model = 'openai:a'\nbase_url = 'http://h:99999/v1'", "its port, if any, from 1 to 65535"),
        (f"{LLM}model = 'openai:a'\nbase_url = 'http://u:pw@h/v1'", "base_url: it holds a user or a password"),
        (f"{LLM}model = 'openai:a'\nsearch = true", 'add requires = ["ITS_NAME"]'),
    ],
)
def test_each_mistake_has_its_words(
    declare: Declare, module: str, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    monkeypatch.setenv("SPOILT_API_KEY", "a b")
    (told,) = problems(declare, text)
    assert problem.replace("MODULE", module) in told


def test_a_key_that_was_written_into_the_file_is_not_told(declare: Declare) -> None:
    for value in ("['sk-12345678']", "'sk-12345678'"):
        (told,) = problems(declare, f"[a]\nkind = 'word'\nword = 'x'\napi_key = {value}")
        assert "sk-1234" not in told


def test_a_circle_is_refused(declare: Declare) -> None:
    one = "kind = 'MODULE:Scaled'"
    with pytest.raises(RegistryError, match="in a circle"):
        declare(f"[a]\n{one}\nrequires = ['b']\n[b]\n{one}\nrequires = ['a']")


def test_a_file_that_is_named_has_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DeclarationError, match=r"mine\.toml cannot be read: no such file.*EXPERIMENTS_FILE"):
        read_declarations(load_settings(experiments_file="mine.toml"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_what_editors_save_is_read(module: str, tmp_path: Path, encoding: str) -> None:
    text = f"[a]\r\nkind = '{module}:Scaled'\r\ndescription = 'größer'\r\n"
    (tmp_path / "experiments.toml").write_bytes(text.encode(encoding))
    assert registry_of(load_settings())["a"].description == "größer"


def test_what_is_no_text_or_has_no_end_is_refused(module: str, tmp_path: Path) -> None:
    file = tmp_path / "experiments.toml"
    for content, problem in (
        (b"[a]\nkind = '\xff'", "line 2, is not UTF-8 text"),
        (b"#" * (MOST_BYTES + 1), "more than 1,000,000 bytes"),
    ):
        file.write_bytes(content)
        with pytest.raises(DeclarationError, match=problem):
            registry_of(load_settings())


def test_a_run_elsewhere_finds_the_file(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiments.toml").write_text(f"[a]\nkind = '{module}:Scaled'")
    registry, given = registry_of(load_settings()), shared_variables(load_settings(), tmp_path / "home")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(import_path(registry))
    monkeypatch.setenv("EXPERIMENTS_FILE", given["EXPERIMENTS_FILE"])
    assert "a" in registry_of(load_settings())


_LINES = st.sampled_from(
    [
        *("[a]", "[b]", "[a.limits]", "[[c]]", "kind = 'word'", "word = 'x'", "markets = 3", "markets = -1", "= ="),
        *("word = 2", "x.y.z = [1, {a = nan}]", "requires = ['a', 'b', 'c']", "'' = 1", "version = ''", "kind = ':'"),
        *("kind = 'os:path'", "description = '\u0000'", "word = '''", "limits = 3", 'description = "\\u0000"'),
    ]
)
_TEXTS = st.one_of(st.text(), st.lists(_LINES, max_size=12).map("\n".join), st.lists(st.text()).map("\n".join))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(_TEXTS)
def test_any_text_either_loads_or_is_told_with_lines(declare: Declare, tmp_path: Path, text: str) -> None:
    file = tmp_path / "experiments.toml"
    file.write_text(text, encoding="utf-8", errors="replace", newline="")
    try:
        registry = registry_of(load_settings(processing_experiments=(BASELINE,)))
    except DeclarationError as error:
        lines = text.count("\n") + text.count("\r") + 1
        for problem in error.problems:
            place = re.match(r"experiments\.toml:(\d+): \S|.*experiments\.toml, line (\d+), (is not|has NUL)", problem)
            assert place is not None, problem
            assert 1 <= int(place[1] or place[2]) <= lines
    except RegistryError as error:
        if "in a circle" not in str(error):
            raise
    else:
        assert set(registry.names) >= {"baseline_snapshot"}
