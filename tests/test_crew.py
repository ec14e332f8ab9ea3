"""Workers as a run sees them: who takes tiles, who does not, and what is said about it."""

from typing import Any

import pytest

from tilevision.cluster import Crew, Sighting, host_of

GB = 10**9


def sighting(**facts: Any) -> Sighting:
    plain: dict[str, Any] = {"name": "w", "host": "10.0.0.1", "threads": 2, "limit": GB}
    return Sighting(**plain | facts)


def crew_of(**workers: Sighting) -> Crew:
    crew = Crew()
    crew.saw(workers, 0.0)
    return crew


@pytest.mark.parametrize("status", ["paused", "closing_gracefully", "closing"])
def test_only_running_workers_take_tiles(status: str) -> None:
    """Dask's statuses other than running mean that no task is begun; the worker is there still."""
    crew = crew_of(a=sighting(), b=sighting(status=status))
    assert crew.workers == {"a": 2, "b": 2}
    assert crew.idle == {"b"}
    assert crew.retires("b") is status.startswith("closing")


def test_a_worker_that_pauses_for_a_moment_is_left_alone() -> None:
    """Only one that stays paused is acted on."""
    crew = crew_of(a=sighting(status="paused"))
    assert crew.stuck(4.9) == [] and crew.news(4.9, owned=False) == []
    assert crew.stuck(5.0) == ["a"]
    crew.saw({"a": sighting()}, 6.0)
    crew.saw({"a": sighting(status="paused")}, 7.0)
    assert crew.stuck(11.0) == []


def test_a_paused_worker_is_named_once_with_its_memory() -> None:
    """One line for a user's cluster: which worker, how much memory, what helps."""
    crew = crew_of(a=sighting(status="paused", memory=900_000_000), b=sighting())
    (line,) = crew.news(5.0, owned=False)
    assert line.startswith("Worker a is paused by Dask and takes no tiles: a holds 858.31 MiB of")
    assert "batch_size=" in line
    assert crew.news(100.0, owned=False) == []


def test_a_new_worker_that_pauses_is_named_too() -> None:
    """What was said about one worker does not hide another, a minute later."""
    crew = crew_of(a=sighting(status="paused"))
    assert crew.news(5.0, owned=False)
    both = {"a": sighting(status="paused"), "b": sighting(status="paused")}
    crew.saw(both, 10.0)
    assert crew.news(20.0, owned=False) == []
    (line,) = crew.news(70.0, owned=False)
    assert line.startswith("Workers a, b are paused by Dask and take no tiles")


def test_workers_that_all_close_are_named_with_the_reason() -> None:
    """A lifetime that ends is no news while others work; when nobody does, the run says so."""
    crew = crew_of(a=sighting(status="closing_gracefully"), b=sighting())
    assert crew.news(0.0, owned=False) == []
    crew = crew_of(a=sighting(status="closing_gracefully"))
    (line,) = crew.news(0.0, owned=False)
    assert "lifetime" in line and "waits for another worker" in line


def test_a_silent_worker_is_named_by_ones_own_clock() -> None:
    """A heartbeat that stays the same for half a minute is silence, by any clock."""
    crew = crew_of(a=sighting(heartbeat=5000.0), b=sighting(heartbeat=5000.0))
    crew.saw({"a": sighting(heartbeat=5000.0), "b": sighting(heartbeat=5031.0)}, 31.0)
    (line,) = crew.news(31.0, owned=True)
    assert line.startswith("Worker a is silent for 31 s") and "Python's lock" in line
    assert crew.silent("b", 31.0) == 0.0


@pytest.mark.parametrize(
    ("annotations", "may"),
    [
        ({}, {"a", "b"}),
        ({"resources": {"GPU": 1}}, {"b"}),
        ({"resources": {"GPU": 2}}, set()),
        ({"workers": ["a"]}, {"a"}),
        ({"workers": "gpu"}, {"b"}),
        ({"workers": ("10.0.0.2",)}, {"b"}),
        ({"workers": ["a"], "allow_other_workers": True}, {"a", "b"}),
        ({"workers": lambda key: ["a"]}, {"a", "b"}),
    ],
)
def test_annotations_bound_who_counts(annotations: dict[str, Any], may: set[str]) -> None:
    """Addresses, names and hosts as in Dask's ``workers=``; resources have to suffice."""
    crew = Crew(annotations)
    gpu = sighting(name="gpu", host="10.0.0.2", resources={"GPU": 1.0})
    crew.saw({"a": sighting(), "b": gpu}, 0.0)
    assert set(crew.workers) == may


def test_a_host_that_cannot_do_the_work_is_left_out_once() -> None:
    """All its workers idle, tasks are bound to the others, and one line says so."""
    other = sighting(host="10.0.0.2")
    crew = crew_of(a=sighting(), b=sighting(), c=other)
    assert crew.bounded is None and not crew.hopeless
    line = crew.leave_out("a", "cannot read /data/x.tif: No such file or directory")
    assert line.startswith("Worker host 10.0.0.1 is left out of this run: it cannot read")
    assert crew.leave_out("b", "cannot read /data/x.tif") == ""
    crew.saw(dict(crew.seen), 1.0)
    assert crew.idle == {"a", "b"} and crew.bounded == ["c"] and not crew.hopeless
    crew.leave_out("c", "cannot either")
    assert crew.hopeless


@pytest.mark.parametrize(
    ("address", "host"),
    [("tcp://10.0.0.1:4000", "10.0.0.1"), ("tls://[::1]:4000", "::1")],
)
def test_the_host_of_an_address(address: str, host: str) -> None:
    """It is what the scheduler calls the worker's host, for each kind of connection."""
    assert host_of(address) == host
