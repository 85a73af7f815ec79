"""The faults of a soak are those of its seed, and every kind has its turn."""

from itertools import islice

from soak.audit import Check, Found, Ledger
from soak.faults import _STRIKES, KINDS, drawn
from soak.report import report

NUMBER = sum(len(kinds) for kinds in KINDS.values())


def test_one_seed_is_one_sequence_of_faults_and_another_seed_another() -> None:
    first, again, other = (list(islice(drawn(seed), 2 * NUMBER)) for seed in (5, 5, 6))

    assert first == again
    assert first != other
    assert [fault.kind for fault in first[:NUMBER]] != [fault.kind for fault in first[NUMBER:]]


def test_every_kind_comes_once_before_any_comes_again_and_can_be_made() -> None:
    dealt = list(islice(drawn(7), 3 * NUMBER))

    for round_ in (dealt[:NUMBER], dealt[NUMBER : 2 * NUMBER], dealt[2 * NUMBER :]):
        assert {(fault.boundary, fault.kind) for fault in round_} == set(_STRIKES)


def test_a_fault_strikes_only_what_it_can_reach() -> None:
    for fault in islice(drawn(8), 20 * NUMBER):
        runs = fault.target.startswith("daily")
        assert runs or fault.boundary not in ("staging", "clock")
        assert runs or fault.point in ("start", "request")
        assert fault.target != "score" or fault.boundary != "exchange"


def test_a_report_names_the_seed_the_problems_and_how_to_see_it_again() -> None:
    found = Found(
        [Check("all is well", 3), Check("nothing is lost", 2, [f"market {one} is lost" for one in range(20)])]
    )

    ledger = Ledger(
        end={"seed": 41, "days": 2},
        faults=[
            {
                "boundary": "clock",
                "fault": "stepped",
                "day": "2026-03-02",
                "what": "clock: stepped in daily 7",
                "outcome": "stored",
            }
        ],
    )
    made = report(ledger, found)

    assert "nothing is lost" in made.text
    assert "market 0 is lost" in made.text
    assert "and 8 more" in made.text
    assert "SEED=41" in made.text
    assert "1 x clock: stepped" in made.text
    assert made.facts["passed"] is False
    assert made.facts["faults"] == [{"day": "2026-03-02", "fault": "clock: stepped in daily 7", "outcome": "stored"}]
    assert len(made.facts["audit"][1]["problems"]) == 20
    assert "the audit passes" in report(ledger, Found([Check("all is well", 3)])).text
