"""A rollout on paper: waves, thresholds, limits, and what each device is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentkd.errors import ConfigError, LoadError
from agentkd.fleet.audit import AuditLog
from agentkd.fleet.decisions import supersedes, transition, waits
from agentkd.fleet.known import FAILURES, Known, Plan
from agentkd.fleet.messages import Report
from agentkd.fleet.office import Office, told
from agentkd.fleet.rollout import fold, order
from tests.fleet_world import Paper, executor_file, office

OTHER = "a" * 64


class Story(Paper):
    """A fleet on paper with a pushed executor."""

    def __init__(self, folder: Path, devices: int, **options: Any) -> None:
        super().__init__(office(folder))
        for index in range(devices):
            self.report(f"d{index}", active=OTHER)
        self.digest = self.office.push(executor_file(folder), "me", **options).digest
        self.pass_time(1)

    def end(self, names: Any, phase: str = "CONFIRMED") -> None:
        """Let devices come to an end."""
        for name in list(names):
            active = self.digest if phase == "CONFIRMED" else OTHER
            self.report(name, phase=phase, digest=self.digest, active=active)

    def course(self) -> str:
        """Return how the rollout stands."""
        assert self.fleet.rollout is not None
        return self.fleet.rollout.course

    def action(self, name: str) -> str:
        """Return what a device is asked for."""
        target = self.fleet.devices[name].target
        return "" if target is None else target.action


def test_waves_ask_so_many_per_cent_in_the_order_of_a_hash(tmp_path: Path) -> None:
    """Each wave waits for the one before; another executor begins with other devices."""
    story = Story(tmp_path, 40, waves=(5.0, 25.0, 100.0))
    first = story.asked()
    assert len(first) == 2
    hashed = sorted(story.fleet.devices, key=lambda each: order(each, story.digest))
    assert first == set(hashed[:2])
    story.end(list(first)[:1])
    assert len(story.asked()) == 2
    story.end(first)
    assert story.asked() == set(hashed[:10])
    story.end(story.asked())
    assert len(story.asked()) == 40
    assert story.course() == "running"
    story.end(story.asked())
    assert story.course() == "finished"
    again = sorted(story.fleet.devices, key=lambda each: order(each, OTHER))
    assert again != hashed


@pytest.mark.parametrize("kind", FAILURES)
def test_too_many_failures_of_a_kind_abort(tmp_path: Path, kind: str) -> None:
    """At the share that was asked for it goes on, above it stops; who has not begun holds."""
    conditions = {"waves": (50.0, 100.0), "abort": {kind: 0.2}, "sample": 3, "limit": 60.0}
    story = Story(tmp_path, 20, **conditions)
    asked = sorted(story.asked())
    story.end(asked[:3])

    def fail(names: list[str]) -> None:
        if kind == "timed-out":
            for name in names:
                story.report(name, phase="TRIAL", digest=story.digest, active=OTHER)
            return
        story.end(names, "REFUSED" if kind == "refused" else "ROLLED_BACK")

    fail(asked[3:5])
    assert story.course() == "running"
    fail(asked[5:6])
    if kind == "timed-out":
        # Those that are on line and did nothing are late as well.
        story.pass_time(61)
    assert story.course() == "aborted"
    assert story.fleet.rollout is not None
    assert "20.0% may" in story.fleet.rollout.text
    assert {story.action(each) for each in asked[:3]} == {"apply"}
    assert {story.action(each) for each in asked[6:]} == {"hold"}
    assert len(story.asked()) == 10


def test_nothing_is_judged_before_the_sample(tmp_path: Path) -> None:
    """One failure of one end says little; with the sample it counts."""
    story = Story(tmp_path, 10, waves=(100.0,), sample=4, abort={"refused": 0.0})
    names = sorted(story.asked())
    story.end(names[:1], "REFUSED")
    story.end(names[1:3])
    assert story.course() == "running"
    story.end(names[3:4])
    assert story.course() == "aborted"


def test_fast_failures_do_not_count_for_more(tmp_path: Path) -> None:
    """The share is of all that were asked: 2 of 20 is not 2 of the first 4."""
    story = Story(tmp_path, 20, waves=(100.0,), sample=4, abort={"refused": 0.1})
    names = sorted(story.asked())
    story.end(names[:2], "REFUSED")
    story.end(names[2:])
    assert story.course() == "finished"


def test_a_device_that_takes_too_long_fails_and_may_still_confirm(tmp_path: Path) -> None:
    """The limit counts from when it was asked and on line; a late confirmation is one."""
    story = Story(tmp_path, 2, waves=(100.0,), limit=100.0, abort={})
    story.end(["d0"])
    story.pass_time(99)
    assert story.fleet.counts["pending"] == 1
    story.pass_time(2)
    assert story.fleet.devices["d1"].outcome == "timed-out"
    assert story.course() == "finished"
    story.end(["d1"])
    assert story.fleet.counts["confirmed"] == 2


def test_a_device_that_vanishes_in_its_trial_fails(tmp_path: Path) -> None:
    """An executor that kills the device counts against it; one that had not begun is absent."""
    story = Story(tmp_path, 4, waves=(100.0,), limit=100.0, abort={"timed-out": 0.3}, sample=1)
    story.report("d0", phase="TRIAL", digest=story.digest, active=OTHER)
    story.report("d1", phase="FETCHING", digest=story.digest, active=OTHER)
    for name in ("d0", "d1"):
        story.report(name, online=False)
    assert [story.fleet.devices[e].outcome for e in ("d0", "d1")] == ["pending", "absent"]
    story.end(["d2", "d3"])
    story.pass_time(101)
    assert story.fleet.devices["d0"].outcome == "timed-out"
    assert story.course() == "aborted"


def test_absent_devices_do_not_hold_up_a_wave(tmp_path: Path) -> None:
    """Those on line are asked first; where asked ones are gone, others take their place."""
    story = Story(tmp_path, 20, waves=(10.0, 100.0), sample=2, limit=50.0)
    first = story.asked()
    assert len(first) == 2
    gone = min(first)
    story.report(gone, online=False)
    story.end(first - {gone})
    assert story.asked() == first
    story.pass_time(51)
    assert len(story.asked()) == 3
    assert story.asked() > first
    story.end(story.asked() - {gone})
    assert len(story.asked()) == 20
    story.end(story.asked() - {gone})
    assert story.course() == "finished"
    assert story.fleet.counts["absent"] == 1
    assert "get it when they come back" in waits(story.fleet, story.now)


def test_a_wave_smaller_than_the_sample_goes_on_without_an_absent_device(tmp_path: Path) -> None:
    """The first wave of twenty is one device; the one in place of the absent is enough."""
    story = Story(tmp_path, 20, waves=(5.0, 25.0, 100.0), sample=5, limit=50.0)
    (gone,) = story.asked()
    story.report(gone, online=False)
    story.pass_time(51)
    (other,) = story.asked() - {gone}
    story.end({other})
    assert len(story.asked()) == 6


def test_no_evidence_begins_no_wave(tmp_path: Path) -> None:
    """If every device is off line the rollout waits, however long."""
    story = Story(tmp_path, 4, waves=(50.0, 100.0), limit=10.0)
    for name in list(story.fleet.devices):
        story.report(name, online=False)
    for _ in range(5):
        story.pass_time(1000)
    assert story.course() == "running"
    assert story.fleet.rollout is not None
    assert story.fleet.rollout.wave == 0


def test_who_is_off_line_at_the_beginning_is_asked_last(tmp_path: Path) -> None:
    """The first wave goes to devices that can answer."""
    place = Paper(office(tmp_path))
    for index in range(10):
        place.report(f"d{index}", online=index >= 5)
    place.office.push(executor_file(tmp_path), waves=(30.0, 100.0))
    place.pass_time(1)
    assert len(place.asked()) == 3
    assert all(place.fleet.devices[each].online for each in place.asked())


def test_new_devices_join(tmp_path: Path) -> None:
    """A device that comes during the rollout is asked in its wave, and after it at once."""
    story = Story(tmp_path, 10, waves=(20.0, 100.0))
    assert len(story.asked()) == 2
    for index in range(10, 20):
        story.report(f"d{index}", active=OTHER)
    assert len(story.asked()) == 4
    while story.course() == "running":
        story.end(story.asked())
    assert story.fleet.counts["confirmed"] == 20
    story.report("late", active=OTHER)
    assert story.action("late") == "apply"


def test_pause_and_resume(tmp_path: Path) -> None:
    """Who has not begun holds; who has goes on; no time runs and no wave begins meanwhile."""
    story = Story(tmp_path, 8, waves=(50.0, 100.0), limit=50.0)
    begun, waiting, *rest = sorted(story.asked())
    story.report(begun, phase="TRIAL", digest=story.digest, active=OTHER)
    revision = story.fleet.devices[waiting].target
    story.office.command("pause", "me")
    assert story.action(begun) == "apply"
    assert story.action(waiting) == "hold"
    with pytest.raises(ConfigError, match="is paused; pause goes with one that is running"):
        story.office.command("pause", "me")
    story.end([begun])
    story.pass_time(1000)
    assert story.course() == "paused"
    story.office.command("resume", "me")
    story.pass_time(1)
    target = story.fleet.devices[waiting].target
    assert target is not None
    assert revision is not None
    assert (target.action, target.revision > revision.revision) == ("apply", True)
    assert story.fleet.counts["timed-out"] == 0
    story.end([waiting, *rest])
    assert len(story.asked()) == 8


def test_rollback_is_for_those_who_took_it(tmp_path: Path) -> None:
    """Who confirmed or tries it goes back, who has not begun holds; also after the end."""
    story = Story(tmp_path, 4, waves=(100.0,))
    story.end(["d0"])
    story.report("d1", phase="TRIAL", digest=story.digest, active=OTHER)
    story.office.command("rollback", "me")
    assert [story.action(f"d{i}") for i in range(4)] == ["rollback", "rollback", "hold", "hold"]
    # One that was STAGED before it heard of it is rolled back as well.
    story.report("d2", phase="STAGED", digest=story.digest, active=OTHER)
    assert story.action("d2") == "rollback"
    with pytest.raises(ConfigError, match="already"):
        story.office.command("rollback", "me")


def test_an_abort_with_back_rolls_back(tmp_path: Path) -> None:
    """It is one decision, and the reason stays."""
    story = Story(tmp_path, 4, waves=(100.0,), back=True, sample=2, abort={"refused": 0.2})
    story.end(["d0"])
    story.end(["d1"], "REFUSED")
    assert story.course() == "rolled-back"
    assert story.action("d0") == "rollback"
    assert "refused it" in waits(story.fleet, story.now)


def test_an_old_failure_is_not_a_new_one(tmp_path: Path) -> None:
    """A device that refused a file is asked again when that is pushed again, with a new proof."""
    story = Story(tmp_path, 1, waves=(100.0,), abort={})
    story.end(["d0"], "REFUSED")
    assert story.course() == "finished"
    story.office.push(executor_file(tmp_path), "me", waves=(100.0,))
    story.pass_time(1)
    assert story.fleet.counts["pending"] == 1
    story.end(["d0"])
    assert story.fleet.counts["confirmed"] == 1


def test_a_device_that_has_it_is_confirmed_at_once(tmp_path: Path) -> None:
    """What acts already needs no trial."""
    paper = Paper(office(tmp_path))
    plan = paper.office.push(executor_file(tmp_path), waves=(100.0,))
    paper.report("d0", active=plan.digest)
    assert paper.fleet.counts["confirmed"] == 1


def test_one_rollout_at_a_time(tmp_path: Path) -> None:
    """While one runs another is refused; paused, it is replaced."""
    story = Story(tmp_path, 2)
    other = executor_file(tmp_path, 1, "other.akd")
    with pytest.raises(ConfigError, match="is running"):
        story.office.push(other)
    story.office.command("pause", "me")
    assert story.office.push(other).name == "other.akd"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"waves": (50.0,)}, "waves are 50"),
        ({"waves": ()}, "waves are empty"),
        ({"waves": (50.0, 20.0, 100.0)}, "50,20,100"),
        ({"waves": (0.0, 100.0)}, "0,100"),
        ({"waves": (float("nan"), 100.0)}, "nan"),
        ({"sample": 0}, "sample is 0"),
        ({"limit": float("inf")}, "limit is inf"),
        ({"abort": {"eaten": 0.5}}, "'eaten'"),
        ({"abort": {"refused": 1.5}}, "1.5"),
    ],
)
def test_bad_conditions_name_the_value(options: dict[str, Any], words: str) -> None:
    """A plan that cannot be meant is refused, with its value."""
    with pytest.raises(ConfigError, match=words):
        Plan("a" * 64, "x.akd", 1, **options)


def test_a_push_checks_the_file(tmp_path: Path) -> None:
    """What is no executor, or has a name that cannot be sent, leaves no line."""
    place = office(tmp_path)
    junk = tmp_path / "junk.akd"
    junk.write_bytes(b"junk")
    with pytest.raises(LoadError):
        place.push(junk)
    named = executor_file(tmp_path, name="a b.akd")
    with pytest.raises(LoadError, match="name of what is desired"):
        place.push(named)
    with pytest.raises(ConfigError, match="There is no rollout to pause"):
        place.command("pause")
    assert place.fleet.number == 1


def test_a_last_will_tells_only_that_a_device_is_gone() -> None:
    """It was written as the device connected: what it says otherwise is old."""
    known = Known("d", boot="0" * 16, session=2, online=True, phase="TRIAL", digest=OTHER)
    will = Report("0" * 16, 2, online=False)
    event = transition(will, "d", known)
    assert event is not None
    assert (event["online"], event["phase"], event["digest"]) == (False, "TRIAL", OTHER)
    assert not supersedes(Report("0" * 16, 1, online=False), known)
    assert not supersedes(Report("0" * 16, 1, online=True), known)
    assert not supersedes(Report("1" * 16, 9, online=False), known)
    assert supersedes(Report("1" * 16, 1, online=True), known)


def test_every_prefix_of_a_trail_folds(tmp_path: Path) -> None:
    """A server that was killed after any line goes on from there, to the same end."""
    story = Story(tmp_path, 6, waves=(50.0, 100.0), abort={"refused": 0.1})
    story.end(story.asked())
    story.office.command("pause", "me")
    story.office.command("resume", "me")
    story.end(story.asked(), "REFUSED")
    lines = list(AuditLog(story.office.folder).read())
    whole = fold(lines)
    assert whole.devices == story.fleet.devices
    assert whole.rollout == story.fleet.rollout
    for size in range(1, len(lines) + 1):
        part = fold(lines[:size])
        for entry in lines[size:]:
            part.apply(entry)
        assert (part.devices, part.counts) == (whole.devices, whole.counts)
        assert told(lines[size - 1].event)


def test_an_event_of_another_agentkd_is_refused(tmp_path: Path) -> None:
    """An event that is not known is an error that names its line."""
    place = office(tmp_path)
    place.log.append(lambda _: [{"what": "dance"}])
    with pytest.raises(LoadError, match="Line 2: no event is called 'dance'"):
        Office(place.folder)
