"""From one report to the next: what begins, what ends, what stays."""

from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patching.compliance.verdict import KEPT, LACKING, Open, Patch, PatchState, change, once

START = datetime(2026, 11, 2, 4, 0, tzinfo=UTC)


def patch(kb_id="openssl.x86_64", state="MISSING", title="3.0.8-2", cves=()):
    return Patch(kb_id, title, "Security", "Important", state, None, tuple(cves))


def life(*reports):
    """Spans after these reports (operation, patches), an hour apart: [(patch, from hour, to hour, lacks since)]."""
    spans: dict[int, list] = {}
    for hour, (operation, patches) in enumerate(reports):
        at = START + timedelta(hours=hour)
        known = [Open(pk, span[0], span[1], span[3]) for pk, span in spans.items() if span[2] is None]
        news = change(known, patches, at=at, is_install=operation == "Install")
        for pk in news.drop:
            del spans[pk]
        for pk in news.end:
            spans[pk][2] = at
        for each in news.begin:
            spans[len(spans) + 1000 * hour] = [each.patch, each.from_at, None, each.lacks_since]
    hours = lambda moment: None if moment is None else (moment - START) // timedelta(hours=1)  # noqa: E731
    return [(span[0], hours(span[1]), hours(span[2]), hours(span[3])) for span in spans.values()]


def test_a_patch_that_is_installed_has_lacked_from_its_first_scan_to_its_installation():
    missing, installed = patch(), patch(state="INSTALLED")
    assert life(("Scan", [missing]), ("Scan", [missing]), ("Install", [installed]), ("Scan", [installed])) == [
        (missing, 0, 2, 0),
        (installed, 2, None, None),
    ]


def test_an_install_tells_of_no_missing_patch_and_ends_none_that_it_does_not_name():
    other = patch("curl", title="8.5.0-1")
    spans = life(("Scan", [patch(), other]), ("Install", [patch(state="INSTALLED")]))
    assert (other, 0, None, 0) in spans
    assert life(("Scan", [patch(), other]), ("Scan", [patch(state="INSTALLED")]))[1] == (other, 0, 1, 0)


def test_a_failed_patch_goes_on_lacking_since_it_was_first_missing():
    failed = patch(state="FAILED")
    assert life(("Scan", [patch()]), ("Install", [failed]), ("Scan", [patch()])) == [
        (patch(), 0, 1, 0),
        (failed, 1, 2, 0),
        (patch(), 2, None, 0),
    ]


def test_a_newer_version_of_what_is_missing_does_not_start_the_clock_anew():
    newer = patch(title="3.0.8-3")
    assert life(("Scan", [patch()]), ("Scan", [newer])) == [(patch(), 0, 1, 0), (newer, 1, None, 0)]


def test_two_versions_of_one_package_stand_side_by_side():
    old, new = patch("kernel.x86_64", "INSTALLED", "6.1.1"), patch("kernel.x86_64", "MISSING", "6.1.9")
    assert sorted(life(("Scan", [old, new])), key=lambda span: span[0].title) == [
        (old, 0, None, None),
        (new, 0, None, 0),
    ]


def test_of_two_states_of_one_patch_the_worse_counts():
    assert once([patch(state="INSTALLED"), patch(state="FAILED")]) == [patch(state="FAILED")]
    assert once([patch(state="FAILED"), patch(state="INSTALLED")]) == [patch(state="FAILED")]


def test_a_cve_that_becomes_known_later_begins_a_span_and_not_the_clock():
    known = patch(cves=["CVE-2026-1"])
    assert life(("Scan", [patch()]), ("Scan", [known])) == [(patch(), 0, 1, 0), (known, 1, None, 0)]


names = st.sampled_from(["a", "b", "c"])
states = st.sampled_from([state.value for state in PatchState])
reports = st.lists(
    st.tuples(st.sampled_from(["Scan", "Install"]), st.dictionaries(st.tuples(names, names), states, max_size=5)),
    max_size=8,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(reports)
def test_whatever_is_reported_history_tells_of_each_moment_what_the_report_of_it_said(given):
    told = [(operation, [patch(kb, state, title) for (kb, title), state in each.items()]) for operation, each in given]
    spans = life(*told)
    for hour, (operation, patches) in enumerate(told):
        standing = [span[0] for span in spans if span[1] <= hour and (span[2] is None or span[2] > hour)]
        kept = [each for each in patches if each.state in KEPT]
        assert len({each.name for each in standing}) == len(standing)  # one state of each at a time
        if operation == "Scan":
            assert sorted(standing, key=repr) == sorted(kept, key=repr)
        else:
            assert set(kept) <= set(standing)
            assert {each.state for each in set(standing) - set(kept)} <= {"MISSING"}
    assert all((span[3] is not None) == (span[0].state in LACKING) for span in spans)
    assert all(span[2] is None or span[2] > span[1] for span in spans)
