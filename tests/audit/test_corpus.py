"""Every step of the corpus: what is wrong is found at its line, in what is right nothing is."""

import itertools

import pytest
from tests.audit.corpus import cases, findings_of

import treadle._audit._rules as rules

_FAST = 1
"""Steps of each kind and rule that run every time; the others take minutes to compile."""


def _kind(case):
    return case.group, case.is_wrong


def chosen():
    # Those that need another package last.
    ordered = sorted(cases(), key=lambda case: (*_kind(case), case.needs is not None))
    for _, group in itertools.groupby(ordered, key=_kind):
        for at, case in enumerate(group):
            marks = [] if at < _FAST else [pytest.mark.slow]
            yield pytest.param(case, id=str(case), marks=marks)


@pytest.mark.parametrize("case", list(chosen()))
def test_step(case):
    if not case.available:
        pytest.skip(f"{case.needs} is not installed")
    assert findings_of(case) == set(case.expected)


WITHOUT = {"no-compilation-cache"}
"""Rules about the process, not about a step."""


@pytest.mark.parametrize("slug", sorted(rules.rules().keys() - WITHOUT))
def test_every_rule_has_enough_steps(slug):
    own = [case for case in cases() if case.group == slug]
    assert sum(case.is_wrong for case in own) >= 8
    assert sum(not case.is_wrong for case in own) >= 4
    for case in own:
        assert {rule for rule, _ in case.expected} <= {slug}
