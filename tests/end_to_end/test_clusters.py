"""The launch files in docs/clusters, tried without a cluster.

Stand-ins take the place of ``srun``, ``scontrol``, ``gcloud``, ``xpk`` and of a pod; the tests run their commands.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from dualdiff_jax.cli.arguments import USED_BY
from tests.end_to_end.command import HANG, ROOT
from tests.multidevice.hosts import environment, free_port
from tests.small_run import write_config, write_data

CLUSTERS = ROOT / "docs" / "clusters"
SCRIPTS = sorted([*CLUSTERS.glob("*.sh"), *CLUSTERS.glob("*.sbatch")])
CONFIG, WORKDIR = "configs/dual_diff_pretrain_256.py", "/shared/runs/a run"

# Starts the processes of a job step on this machine, as if on two nodes, and forwards signals; see srun(1).
SRUN = """
import itertools, os, signal, subprocess, sys
command = list(itertools.dropwhile(lambda word: word.startswith("--"), sys.argv[1:]))
nodes = int(os.environ["SLURM_NNODES"])
step = {"SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": str(nodes), "SLURM_LOCALID": "0"}
step["SLURM_STEP_TASKS_PER_NODE"] = f"1(x{nodes})"
tasks = []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: [task.send_signal(number) for task in tasks])
for number in range(nodes):
    tasks.append(subprocess.Popen(command, env=os.environ | step | {"SLURM_PROCID": str(number)}))
sys.exit(max(task.wait() for task in tasks))
"""
# Notes the arguments of each call.
NOTE = """
import json, os, sys
with open(os.environ["NOTES"], "a") as notes:
    notes.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
"""
# As Python, it also tells that a bucket holds no model.
FAKE_PYTHON = (
    """
import sys
if sys.argv[1] == "-c":
    sys.exit(1)
"""
    + NOTE
)


@pytest.fixture
def stand_ins(tmp_path):
    """(environment with the stand-ins in PATH, a function that returns the noted calls)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, program in (
        ("srun", SRUN),
        ("fake_python", FAKE_PYTHON),
        *((name, NOTE) for name in ("scontrol", "gcloud", "xpk")),
    ):
        (folder / name).write_text(f"#!{sys.executable}\n{program}")
        (folder / name).chmod(0o755)
    notes = tmp_path / "notes"

    def called() -> list[list[str]]:
        return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []

    variables = {"PATH": f"{folder}:{os.environ['PATH']}", "NOTES": str(notes), "CONFIG": CONFIG, "WORKDIR": WORKDIR}
    return environment() | variables, called


def are_flags(words: list[str]) -> None:
    """Asserts that each word is a flag of the command line."""
    known = {*USED_BY, "mode", "debug"}
    for word in words:
        name = re.fullmatch(r"--([\w.]+)=.*", word)
        assert name and (name[1] in known or name[1].startswith("config.")), word


def bash(script: Path | str, *arguments: str, variables: dict[str, str]) -> subprocess.CompletedProcess:
    how = ["bash", str(script)] if isinstance(script, Path) else ["bash", "-c", script]
    return subprocess.run([*how, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=HANG)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_its_syntax(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr


def test_every_launch_file_is_described():
    text = (ROOT / "docs" / "clusters.md").read_text()
    assert all(f"clusters/{file.name}" in text for file in CLUSTERS.iterdir())


def start_batch(variables: dict[str, str], *flags: str) -> subprocess.Popen:
    return subprocess.Popen(
        ["bash", CLUSTERS / "slurm_h100.sbatch", *flags],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_slurm(stand_ins, tmp_path):
    """Two nodes train; before the job's time is up they save and the job is requeued; a run that fails is not."""
    variables, called = stand_ins
    write_data(tmp_path / "data")
    write_config(tmp_path / "config.py", tmp_path / "data", steps=1000000, global_batch_size=8, log_every=1)
    workdir = tmp_path / "a run"
    job = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "77", "PYTHON": sys.executable, "WORKDIR": str(workdir)}
    job |= {"CONFIG": str(tmp_path / "config.py"), "SLURM_SUBMIT_DIR": str(ROOT)}
    first = start_batch(variables | job | {"JAX_COORDINATOR_PORT": str(free_port())})
    deadline, metrics = time.monotonic() + HANG, workdir / "metrics.jsonl"
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
        assert time.monotonic() < deadline and first.poll() is None, first.communicate()
        time.sleep(0.1)
    first.send_signal(signal.SIGUSR1)  # to the batch script alone, as --signal=B:USR1@300 says
    printed, _ = first.communicate(timeout=HANG)
    assert first.returncode == 0 and "stopped by SIGUSR1, saved at step" in printed, printed
    assert called() == [["scontrol", "requeue", "77"]] and not (workdir / "model").exists()
    step = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    variables |= job | {"JAX_COORDINATOR_PORT": str(free_port())}
    again = start_batch(variables, f"--config.train.steps={step + 2}")
    printed, _ = again.communicate(timeout=HANG)
    assert again.returncode == 1 and "train.steps: 1000000 ->" in printed, printed
    assert called() == [["scontrol", "requeue", "77"]]


def test_slurm_names_the_variable_that_is_not_set(stand_ins):
    variables, _ = stand_ins
    for name in ("CONFIG", "WORKDIR"):
        without = {key: value for key, value in variables.items() if key != name}
        done = bash(CLUSTERS / "slurm_h100.sbatch", variables=without)
        assert done.returncode and f"{name}: is not set" in done.stderr


def test_jobset(stand_ins):
    """The fields that JobSet and JAX need, and the command of each pod."""
    (jobset,) = yaml.safe_load_all((CLUSTERS / "gpu_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert jobset["spec"]["coordinator"] == {"replicatedJob": replicated["name"], "jobIndex": 0, "podIndex": 0}
    assert jobset["spec"]["network"]["enableDNSHostnames"] and jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    job = replicated["template"]["spec"]
    assert replicated["replicas"] == 1 and job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["restartPolicy"] == "Never" and container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert {m["name"] for m in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    given = {entry["name"]: entry for entry in container["env"]}
    assert int(given["NUM_PROCESSES"]["value"]) == job["parallelism"] == job["completions"]
    where = given["COORDINATOR"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert where == "metadata.annotations['jobset.sigs.k8s.io/coordinator']"
    variables, called = stand_ins
    variables |= {name: entry["value"] for name, entry in given.items() if "value" in entry}
    variables |= {"COORDINATOR": "dualdiff-host-0-0.dualdiff", "JOB_COMPLETION_INDEX": "3", "PYTHON": "fake_python"}
    done = subprocess.run([*container["command"], *container["args"]], cwd=ROOT, env=variables, timeout=HANG)
    assert done.returncode == 75  # it has not trained, so there is no model folder
    ((_, main, *flags),) = called()
    assert main == "main.py" and (ROOT / given["CONFIG"]["value"]).is_file()
    are_flags(flags)
    port = container["ports"][0]["containerPort"]
    assert flags[0] == "--mode=train"
    assert flags[-3:] == [f"--coordinator=dualdiff-host-0-0.dualdiff:{port}", "--num_processes=4", "--process_id=3"]


def test_tpu_pod(stand_ins, tmp_path):
    """Runs the command that each worker gets."""
    variables, called = stand_ins
    variables |= {"TPU": "my slice", "ZONE": "us-east5-a"}
    assert bash(CLUSTERS / "tpu_pod.sh", "--config.train.remat=dots", variables=variables).returncode == 0
    ((_, *words, command),) = called()
    assert words == ["compute", "tpus", "tpu-vm", "ssh", "my slice", "--zone=us-east5-a", "--worker=all"]
    python = tmp_path / "dualdiff_jax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(tmp_path / "bin" / "fake_python")
    assert bash(command.removeprefix("--command="), variables=variables | {"HOME": str(tmp_path)}).returncode == 0
    _, main, *flags = called()[-1]
    assert main == "main.py"
    assert flags == ["--mode=train", f"--config={CONFIG}", f"--workdir={WORKDIR}", "--config.train.remat=dots"]
    are_flags(flags)


def test_xpk(stand_ins):
    variables, called = stand_ins
    variables |= {"CLUSTER": "c", "ZONE": "z", "PROJECT": "p", "IMAGE": "i", "TPU_TYPE": "v5p-128", "SLICES": "2"}
    done = bash(CLUSTERS / "tpu_xpk.sh", "dualdiff-1", "--config.train.remat=dots", variables=variables)
    assert done.returncode == 0, done.stderr
    ((_, *words, command),) = called()
    assert words[:3] == ["workload", "create", "--workload=dualdiff-1"] and "--num-slices=2" in words
    bash(command.removeprefix("--command="), variables=variables | {"PYTHON": "fake_python"})
    _, main, *flags = called()[-1]
    assert main == "main.py"
    assert flags == ["--mode=train", f"--config={CONFIG}", f"--workdir={WORKDIR}", "--config.train.remat=dots"]
    are_flags(flags)


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("exit 0", 75),  # stopped by a signal, and saved
        ('mkdir -p "$WORKDIR/model"', 0),
        ("exit 1", 1),
        ("trap 'kill $!; exit 0' TERM; sleep 600 & kill -TERM $PPID; wait", 75),  # the signal reaches it
    ],
)
def test_a_pod_is_done_when_there_is_a_model(tmp_path, program, code):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/bash\n{program}\n")
    python.chmod(0o755)
    variables = dict(os.environ) | {"PYTHON": str(python), "WORKDIR": str(tmp_path / "run")}
    assert bash(CLUSTERS / "train.sh", f"--workdir={tmp_path / 'run'}", variables=variables).returncode == code
