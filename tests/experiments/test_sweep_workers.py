"""Pools: runs in processes that are killed, and on Ray, end as they do in one process."""

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from killing import ENVIRONMENT
from lsc_snn._sweep_figure import sweep_figure
from lsc_snn.experiments import sweep_workers
from lsc_snn.experiments.sweep_run import run_sweep
from lsc_snn.experiments.sweep_summary import write_outputs
from lsc_snn.experiments.sweep_workers import RETRIES, LocalPool, RayPool
from lsc_snn.plots import to_png
from sweep_cases import HerePool, alive, dies_once, make_recordings, make_sweep, outputs

SMALL = {"targets": ["none"], "seeds": 2, "learning_rates": [0.01], "train": {"epochs": 12, "batch_size": 8}}
PLACES = [f"speech/LIF/depth-1/untreated/rate-0.01/seed-{seed}" for seed in (0, 1)]


@pytest.fixture
def spawned(monkeypatch):
    """Let spawned processes run on one thread, without a GPU, and import what the tests do."""
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONPATH"):
        monkeypatch.setenv(name, ENVIRONMENT[name])


def finish(sweep, folder, make_pool, on_event=None):
    result = run_sweep(sweep, folder, make_pool, on_event=on_event)
    write_outputs(folder, result, figure=to_png(sweep_figure(result.rows)))
    return result


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return make_recordings(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    finish(make_sweep(recordings, **SMALL), folder, lambda: HerePool(folder))
    return outputs(folder)


def test_a_killed_process_is_replaced_and_its_run_goes_on(spawned, whole, recordings, tmp_path):
    events, pools = [], []

    def make_pool():
        pools.append(LocalPool(tmp_path, None, workers=2))
        return pools[0]

    def kill_once(event, done, total):
        events.append(event)
        if event.kind == "epoch" and event.epoch == 3 and not any(e.kind == "retry" for e in events):
            victims = [pid for pid, place in pools[0].processes.items() if place == event.job.place]
            for victim in victims:
                os.kill(victim, signal.SIGKILL)

    result = finish(make_sweep(recordings, **SMALL), tmp_path, make_pool, kill_once)
    assert result.failures == ()
    assert "killed by SIGKILL" in next(event.error for event in events if event.kind == "retry")
    assert outputs(tmp_path) == whole
    # Each epoch ran once, or twice if it was the one that was cut, and none anew from the start.
    retried = next(event.job.place for event in events if event.kind == "retry")
    told = [event.epoch for event in events if event.kind == "epoch" and event.job.place == retried]
    assert told == sorted(told)
    assert pools[0].processes == {}


def test_a_run_that_always_dies_fails_alone(spawned, recordings, tmp_path, monkeypatch):
    """Its process is killed as soon as it begins; the other run is done all the same."""
    monkeypatch.setattr(sweep_workers, "RETRIES", 1)  # each costs the start of a process
    retries, pool = [], LocalPool(tmp_path, None, workers=1)
    submit = pool.submit

    def submit_and_kill(job):
        submit(job)
        kill_first()

    def kill_first():
        for pid, place in pool.processes.items():
            if place == PLACES[0]:
                os.kill(pid, signal.SIGKILL)

    def on_event(event, done, total):
        retries.append(event.kind == "retry")
        kill_first()

    pool.submit = submit_and_kill
    result = run_sweep(make_sweep(recordings, **SMALL), tmp_path, lambda: pool, on_event=on_event)
    assert sum(retries) == 1
    ((place, reason),) = result.failures
    assert place == PLACES[0]
    assert reason == "its process was killed by SIGKILL, 2 times in all"
    assert [row.run.folder for row in result.rows] == PLACES[1:]


PROGRAM = """
import signal
import sys
from pathlib import Path
from lsc_snn.experiments.sweep_run import run_sweep
from lsc_snn.experiments.sweep_workers import LocalPool
from sweep_cases import make_sweep

def tell(event, done, total):
    print(*pool.processes, flush=True)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born deaf to it
    folder = Path(sys.argv[2])
    pool = LocalPool(folder, None, workers=2)
    train = {"epochs": 12, "batch_size": 8}
    sweep = make_sweep(sys.argv[1], targets=["none"], seeds=2, learning_rates=[0.01], train=train)
    run_sweep(sweep, folder, lambda: pool, on_event=tell)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_sweep_leaves_no_process_and_goes_on(whole, recordings, tmp_path, how):
    """After Ctrl-C, and after SIGKILL, which no program can handle: the next call ends with the same files."""
    program, folder = tmp_path / "program.py", tmp_path / "sweep"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(recordings), str(folder)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    workers = [int(word) for word in process.stdout.readline().split()]
    process.send_signal(how)
    process.communicate()
    assert process.returncode != 0
    assert workers
    while any(map(alive, workers)):
        time.sleep(0.01)
    assert not (folder / "table.csv").exists()
    finish(make_sweep(recordings, **SMALL), folder, lambda: HerePool(folder))
    assert outputs(folder) == whole


@pytest.mark.parametrize("name", ["workers", "threads"])
def test_bad_numbers_of_processes(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}: expected an integer >= 1, got 0"):
        LocalPool(tmp_path, None, **{name: 0})


class FakeRay(types.ModuleType):
    """What RayPool uses of Ray, in this process: the last task that was submitted ends first."""

    def __init__(self, gpus=0):
        super().__init__("ray")
        self.exceptions = types.SimpleNamespace(RayError=RuntimeError)
        self.gpus, self.asked, self.started, self.cancelled, self.down = gpus, [], None, [], False
        self.fail = set()

    def init(self, address, **_):
        if address != "here":
            raise ConnectionError("Could not find\nany running Ray instance.")
        self.started = address

    def cluster_resources(self):
        return {"CPU": 4.0, **({"GPU": self.gpus} if self.gpus else {})}

    def remote(self, **needs):
        self.asked.append(needs)
        return lambda function: types.SimpleNamespace(remote=lambda *values: (function, values))

    def wait(self, references, num_returns):
        return references[-num_returns:], references[:-num_returns]

    def get(self, reference):
        function, values = reference
        if any(place in values[0] for place in self.fail):
            raise RuntimeError("The worker died unexpectedly.\nDetails follow.")
        return function(*values)

    def cancel(self, reference, force):
        self.cancelled.append(reference)

    def shutdown(self):
        self.down = True


@pytest.fixture
def fake(monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def test_ray_computes_the_same(fake, whole, recordings, tmp_path):
    finish(make_sweep(recordings, **SMALL), tmp_path, lambda: RayPool(tmp_path, None, "here"))
    assert outputs(tmp_path) == whole
    assert fake.asked == [{"num_cpus": 1, "num_gpus": 0.0, "max_retries": RETRIES}]
    assert fake.down


@pytest.mark.parametrize(("gpus", "wanted", "asked"), [(2, None, 1.0), (2, 0.25, 0.25), (0, None, 0.0)])
def test_ray_places_runs_on_gpus_where_there_are_any(fake, tmp_path, gpus, wanted, asked):
    fake.gpus = gpus
    with RayPool(tmp_path, None, "here", threads=2, gpus=wanted):
        assert fake.asked == [{"num_cpus": 2, "num_gpus": asked, "max_retries": RETRIES}]


def test_a_task_that_ray_gives_up_fails_alone(fake, recordings, tmp_path):
    fake.fail = {PLACES[0]}
    result = run_sweep(make_sweep(recordings, **SMALL), tmp_path, lambda: RayPool(tmp_path, None, "here"))
    assert result.failures == ((PLACES[0], "RuntimeError: The worker died unexpectedly."),)
    assert [row.run.folder for row in result.rows] == PLACES[1:]


def test_an_interrupted_sweep_cancels_its_tasks(fake, recordings, tmp_path):
    def stop(event, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(make_sweep(recordings, **SMALL), tmp_path, lambda: RayPool(tmp_path, None, "here"), on_event=stop)
    assert len(fake.cancelled) == 1
    assert fake.down


def test_no_cluster_and_no_ray(fake, monkeypatch, tmp_path):
    message = "--ray: expected a cluster at 'there', got: Could not find any running Ray instance.; check it"
    with pytest.raises(ConnectionError, match=message):
        RayPool(tmp_path, None, "there")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"--ray needs Ray; install it with: pip install \"lsc-snn\[ray\]\""):
        RayPool(tmp_path, None, "here")


@pytest.mark.slow
def test_on_ray_itself_a_killed_worker_is_replaced(whole, recordings, tmp_path, monkeypatch):
    """A cluster of this machine alone; the first process that works on a run is killed."""
    pytest.importorskip("ray")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, (ENVIRONMENT["PYTHONPATH"], os.environ.get("PYTHONPATH"))))
    )
    monkeypatch.setattr(sweep_workers, "attempt", dies_once)
    marker = Path(recordings) / "killed"
    finish(make_sweep(recordings, **SMALL), tmp_path, lambda: RayPool(tmp_path, None, "local"))
    assert marker.exists()
    assert outputs(tmp_path) == whole
