"""metrics.jsonl has every logged step once, whatever was killed in between."""

import json

import pytest

from dualdiff_jax.training.telemetry import Telemetry


def metrics(value: float) -> dict[str, float]:
    return {"loss": value, "image_loss": value, "text_loss": value}


def records(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_record_is_the_mean_since_the_last(tmp_path, capsys):
    telemetry = Telemetry(tmp_path, steps=4, examples_per_step=2, first_step=0)
    for value in (1.0, 3.0):
        telemetry.add(metrics(value))
    telemetry.write(2)
    telemetry.add(metrics(5.0))
    telemetry.write(3)
    assert [(record["step"], record["loss"]) for record in records(tmp_path)] == [(2, 2.0), (3, 5.0)]
    assert "step 2/4  image loss 2.0000" in capsys.readouterr().err


def test_a_resumed_run_forgets_what_came_after_its_checkpoint_and_a_torn_line(tmp_path):
    lines = [json.dumps({"step": step, "seconds": step * 1.5}) for step in (2, 4, 6)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 8, "sec')
    telemetry = Telemetry(tmp_path, steps=8, examples_per_step=2, first_step=4)
    telemetry.add(metrics(1.0))
    telemetry.write(5)
    found = records(tmp_path)
    assert [record["step"] for record in found] == [2, 4, 5]
    assert found[-1]["seconds"] == pytest.approx(6.0, abs=1.0) and found[-1]["seconds"] > 6.0


def test_nothing_noted_writes_nothing(tmp_path):
    Telemetry(tmp_path, steps=4, examples_per_step=2, first_step=0).write(1)
    assert not (tmp_path / "metrics.jsonl").exists()
