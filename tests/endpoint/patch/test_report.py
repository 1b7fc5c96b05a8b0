"""A report comes back whole or not at all, whatever happens to the output that carries it."""

import base64
import gzip
import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetops.endpoint.patch.facts import Operation, PatchState, RebootOption
from fleetops.endpoint.patch.report import Unreported, decode

RUN, NODE = "0b4f7a3e-0000-4000-8000-00000000c0de", "i-0123456789abcdef0"
LINES = [
    *("fleetops-patch-report\t1", f"run\t{RUN}\t{NODE}\t1", "operation\tInstall", "reboot_option\tNoReboot"),
    *("snapshot\tsnap", "baseline\tpb-1\t0", "list\ts3%3A//b/k", "started\t2026-11-30T10:00:00Z"),
    *("ended\t2026-11-30T10:01:00Z", "pending\t1", "last_no_reboot\t2026-11-30T10:00:30Z", "failure\tvim failed"),
    "p\tINSTALLED_PENDING_REBOOT\topenssl.x86_64\t1:3-2\tSecurity\tCritical\t2026-11-30T10:00:30Z\tHIGH\tCVE-2026-0001",
    "p\tFAILED\tvim.x86_64\t9-2\tSecurity\tLow\t\tLOW\t",
    *(f"p\tINSTALLED_OTHER\tp{number}.noarch\t1-{number}\t\t\t\tUNSPECIFIED\t" for number in range(400)),
]


def parts(lines, *, size=700, run=RUN, node=NODE, serial=1):
    """What the steps print, as the script does it."""
    count = sum(line.split("\t")[0] == "p" for line in lines)
    text = "\n".join([*lines, f"end\t{count}", ""])
    packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
    whole = hashlib.sha256(packed.encode()).hexdigest()
    pieces = [packed[at : at + size] for at in range(0, len(packed), size)]
    return [
        f"FLEETOPS-PATCH-REPORT {run} {node} {serial} {number}/{len(pieces)} "
        f"{hashlib.sha256(piece.encode()).hexdigest()} {whole}\n{piece}\nFLEETOPS-PATCH-REPORT-END\n"
        for number, piece in enumerate(pieces, 1)
    ]


def read(outputs):
    return decode(outputs, command_id=RUN, instance_id=NODE)


def test_a_report_holds_what_the_node_told():
    report = read(["Patch Summary for the reader\n", *parts(LINES)])
    assert (report.operation, report.reboot_option) == (Operation.INSTALL, RebootOption.NO)
    assert (report.baseline_id, report.snapshot_id, report.is_override) == ("pb-1", "snap", False)
    assert report.install_override_list == "s3://b/k"
    assert report.is_pending_reboot and report.failures == ("vim failed",)
    assert report.last_no_reboot_install_at == datetime(2026, 11, 30, 10, 0, 30, tzinfo=UTC)
    first, second = report.patches[:2]
    assert (first.title, first.kb_id) == ("openssl.x86_64:1:3-2", "openssl.x86_64")
    assert (first.state, first.level, first.cves) == ("INSTALLED_PENDING_REBOOT", "HIGH", ("CVE-2026-0001",))
    assert (second.state, second.installed_at) == (PatchState.FAILED, None)
    assert report.counts[PatchState.INSTALLED_OTHER] == 400


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_parts_may_come_in_any_order_and_more_than_once(data):
    made = parts(LINES)
    outputs = data.draw(st.permutations(made)) + data.draw(st.lists(st.sampled_from(made), max_size=3))
    assert read(outputs) == read(made)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_without_one_of_its_parts_nothing_is_reported(data):
    made = parts(LINES)
    lost = data.draw(st.sets(st.integers(0, len(made) - 1), min_size=1))
    with pytest.raises(Unreported):
        read([output for number, output in enumerate(made) if number not in lost])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_part_that_is_altered_or_cut_anywhere_is_none(data):
    made = parts(LINES)
    number = data.draw(st.integers(0, len(made) - 1))
    text = made[number].rstrip("\n")
    at = data.draw(st.integers(0, len(text) - 1))
    if data.draw(st.booleans()):
        made[number] = text[:at]
    else:
        made[number] = text[:at] + data.draw(st.sampled_from("Aa0+/ \n=")) + text[at + 1 :]
    whole = read(parts(LINES))
    try:
        found = read(made)
    except Unreported:
        return
    assert found == whole and made[number].rstrip() == text  # the letter was the same


def test_a_report_of_another_run_or_node_is_none():
    other = [line.replace(RUN, "another") for line in LINES]
    for outputs in (parts(LINES, run="another"), parts(LINES, node="i-2"), parts(other)):
        with pytest.raises(Unreported):
            read(outputs)


def test_of_two_reports_of_a_run_the_later_counts_if_it_is_whole():
    later = ["fleetops-patch-report\t1", f"run\t{RUN}\t{NODE}\t2", *LINES[2:9], "pending\t0", *LINES[10:]]
    assert not read([*parts(later, serial=2), *parts(LINES)]).is_pending_reboot
    assert read([*parts(later, serial=2)[:-1], *parts(LINES)]).is_pending_reboot


@pytest.mark.parametrize(
    "lines",
    [
        LINES[:1],
        LINES[1:],
        [line for line in LINES if not line.startswith("ended")],
        [*LINES, "p\tSOMETHING\tx.noarch\t1\t\t\t\tUNSPECIFIED\t"],
        [*LINES, "p\tMISSING\tx.noarch\t1"],
        [*LINES, LINES[-1]],
        [line.replace("2026-11-30T10:01:00Z", "yesterday") for line in LINES],
    ],
)
def test_what_no_script_of_ours_writes_is_no_report(lines):
    with pytest.raises(Unreported):
        read(parts(lines))


def test_a_report_that_would_fill_the_memory_is_refused():
    with pytest.raises(Unreported, match="more than"):
        read(parts([*LINES, "x\t" + "0" * (17 * 1024 * 1024)], size=22_000))


@pytest.mark.parametrize("filling", ["\n" * (15 << 20), "\t" * (15 << 20)])
def test_a_small_report_does_not_stand_for_millions_of_lines(filling):
    with pytest.raises(Unreported, match="more than 100000 patches"):
        read(parts([*LINES, filling], size=24_000))


def test_a_zero_in_a_name_is_none_of_the_database():
    zero = "p\tINSTALLED\ta\0b\t1\0\tSecurity\tLow\t\tLOW\t"
    assert read(parts([*LINES, zero])).patches[-1].title == "a\N{REPLACEMENT CHARACTER}b:1\N{REPLACEMENT CHARACTER}"
