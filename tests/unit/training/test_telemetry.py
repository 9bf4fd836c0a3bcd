"""metrics.jsonl has every logged step once, whatever was killed in between, and figures that say what they mean."""

import dataclasses
import json
import sys
import time
import types

import numpy as np
import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.hardware import peak_flops
from dualdiff_jax.training.flops import forward_flops, step_flops
from dualdiff_jax.training.telemetry import sinks
from dualdiff_jax.training.telemetry.recorder import Telemetry, summary
from tests.small_run import small_run

PLAIN = {"skipped": 0}


FLOPS = 3e9  # of one step, on all devices


def open_telemetry(workdir, config, first_step, unlogged_metrics=()) -> Telemetry:
    return Telemetry(workdir, config, first_step, unlogged_metrics, step_flops=FLOPS)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("telemetry"), train={"steps": 8})[0]


def metrics(value: float) -> dict[str, float]:
    return {"loss": value, "image_loss": value, "text_loss": value} | PLAIN


def records(folder, name="metrics") -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_a_record_is_the_mean_since_the_last(tmp_path, capsys, config):
    telemetry = open_telemetry(tmp_path, config, 0)
    for value in (1.0, 3.0):
        telemetry.add(metrics(value))
    telemetry.write(2)
    telemetry.add(metrics(5.0))
    telemetry.write(3)
    assert [(record["step"], record["loss"]) for record in records(tmp_path)] == [(2, 2.0), (3, 5.0)]
    assert "step 2/8  image loss 2.0000" in capsys.readouterr().err


def test_a_resumed_run_forgets_what_came_after_its_checkpoint_and_a_torn_line(tmp_path, config):
    lines = [json.dumps({"step": step, "seconds": step * 1.5}) for step in (2, 4, 6)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 8, "sec')
    before = time.monotonic()
    telemetry = open_telemetry(tmp_path, config, 4)
    telemetry.add(metrics(1.0))
    telemetry.write(5)
    found = records(tmp_path)
    assert [record["step"] for record in found] == [2, 4, 5]
    assert 6.0 < found[-1]["seconds"] < 6.01 + time.monotonic() - before


NO_RECORDS = {
    "invalid UTF-8": b'{"step": 2, "loss": "\xff"}',
    "a number": b"3",
    "null": b"null",
    "a list": b'[{"step": 1}]',
    "no step": b'{"loss": 1.0}',
    "a step that is text": b'{"step": "2"}',
    "a step that is no whole number": b'{"step": 2.5}',
    "a step that is true": b'{"step": true}',
    "deep": b"[" * 5000,
    "a number of thousands of digits": b'{"step": 1' + b"0" * 6000 + b"}",
    "not JSON": b"step 2 loss 1.0",
    "half a line in the middle": b'{"step": 2, "lo',
}


@pytest.mark.parametrize("name", ["metrics", "validation"])
@pytest.mark.parametrize("line", NO_RECORDS.values(), ids=NO_RECORDS)
def test_a_line_that_is_no_record_goes_aside_and_the_run_starts(tmp_path, config, caplog, name, line):
    file = tmp_path / f"{name}.jsonl"
    file.write_bytes(b'{"step": 1, "seconds": 2.0}\n' + line + b'\n{"step": 2, "loss": NaN}\n')
    open_telemetry(tmp_path, config, 2)
    assert [record["step"] for record in records(tmp_path, name)] == [1, 2]
    assert (tmp_path / f"{name}.jsonl.damaged").read_bytes() == line + b"\n"
    assert "1 lines are no records; they are moved to" in caplog.text


@pytest.mark.parametrize("seconds", ['"3"', "null", "[]", "true"])
def test_a_record_whose_time_is_no_number_counts_from_zero(tmp_path, config, seconds):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "seconds": {seconds}}}\n')
    telemetry = open_telemetry(tmp_path, config, 1)
    telemetry.add(metrics(1.0))
    telemetry.write(2)
    assert 0.0 <= records(tmp_path)[-1]["seconds"] < 60.0


def test_unlogged_metrics_of_another_form_count_for_nothing(tmp_path, config):
    """As a damaged checkpoint may hold them."""
    telemetry = open_telemetry(tmp_path, config, 2, [{"loss": [1.0, 2.0]}, {}, {"another": 3.0}, metrics(2.0)])
    telemetry.add(metrics(4.0))
    telemetry.write(4)
    assert records(tmp_path)[0]["loss"] == 3.0 and "another" not in records(tmp_path)[0]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"two words", b"x" * 1000])
def test_a_damaged_name_of_a_run_is_replaced(tmp_path, content):
    file = tmp_path / "wandb_id"
    file.write_bytes(content)
    name = sinks._identity(file)
    assert len(name) == 8 and file.read_text() == name == sinks._identity(file)


def test_what_was_pending_goes_on_in_the_next_process(tmp_path, config):
    (tmp_path / "whole").mkdir(), (tmp_path / "stopped").mkdir()
    values = [np.float32(value) for value in (0.1, 0.7, 1.3)]
    whole, stopped = open_telemetry(tmp_path / "whole", config, 0), open_telemetry(tmp_path / "stopped", config, 0)
    for value in values:
        whole.add(metrics(value))
    for value in values[:2]:
        stopped.add(metrics(value))
    resumed = open_telemetry(tmp_path / "stopped", config, 2, json.loads(json.dumps(stopped.unlogged_metrics())))
    resumed.add(metrics(values[2]))
    for telemetry in (whole, resumed):
        telemetry.write(3)
    assert records(tmp_path / "whole")[0]["loss"] == records(tmp_path / "stopped")[0]["loss"]


def test_nothing_noted_writes_nothing(tmp_path, config):
    open_telemetry(tmp_path, config, 0).write(1)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_mean_leaves_out_what_is_not_finite_and_a_bin_what_it_has_not():
    assert summary("loss", [np.float32(1.0), np.float32("nan"), np.float32(3.0)]) == 2.0
    assert summary("loss", [np.float32("inf")]) is None
    assert summary("skipped", [np.int32(1), np.int32(4)]) == 4
    assert summary("learning_rate", [np.float32(0.0), np.float32(0.5)]) == 0.5
    # sums of share * loss, with shares of 1/4: one example of loss 8 in the first bin, three of mean 2 in the last
    one = np.array([[2.0, 0.0, 1.5], [1.0, 0.0, 3.0]])
    assert summary("by_t", [one, one]) == [8.0, None, 2.0]


def test_waits_are_shares_of_the_time_and_rates_are_of_this_process(tmp_path, config, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("dualdiff_jax.training.telemetry.recorder.time.perf_counter", lambda: now[0])
    telemetry = open_telemetry(tmp_path, config, 2, [metrics(1.0)])
    with telemetry.waiting("data_wait_share"):
        now[0] += 1.0
    telemetry.add(metrics(1.0))
    now[0] += 3.0
    telemetry.write(4)
    record = records(tmp_path)[0]
    assert record["data_wait_share"] == 0.25
    assert record["examples_per_second"] == 2 * config.train.global_batch_size / 4.0
    assert record["seconds_left"] == 4 * 4.0


def test_a_full_disk_loses_no_record(tmp_path):
    lines = sinks.JsonLines(tmp_path / "gone" / "metrics.jsonl", 0)
    lines.write(1, {"loss": 1.0})
    (tmp_path / "gone").mkdir()
    lines.write(2, {"loss": 2.0})
    assert [record["step"] for record in records(tmp_path / "gone")] == [1, 2]


def test_validation_has_a_file_of_its_own(tmp_path, config):
    open_telemetry(tmp_path, config, 0).validated(4, {"text_loss": 1.5})
    assert records(tmp_path, "validation") == [{"step": 4, "text_loss": 1.5}]


def test_tensorboard_and_wandb_get_each_figure_once(tmp_path, config, monkeypatch):
    written = []

    class Module:
        """Stands for both packages."""

        Error = OSError

        def __init__(self, *_, **options):
            self.options = options

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def log(self, values, step):
            written.extend((name, value, step) for name, value in values.items())

        def init(self, **options):
            assert options["resume"] == "allow" and options["config"]["seed"] == config.seed
            self.options = options
            return self

        def flush(self):
            pass

        close = finish = flush

    module = Module()
    module.SummaryWriter = Module
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    monkeypatch.setitem(sys.modules, "wandb", module)
    both = dataclasses.replace(config.telemetry, tensorboard=True, wandb_project="digits")
    for sink in sinks.open_sinks(tmp_path, dataclasses.replace(config, telemetry=both), 0):
        sink.write(3, {"loss": 1.0, "by_t": [2.0, None], "mfu": None})
    assert written == [("loss", 1.0, 3), ("by_t/0", 2.0, 3)] * 2
    assert module.options["id"] == (tmp_path / "wandb_id").read_text()


def test_weights_and_biases_that_does_not_start_is_told(tmp_path, config, monkeypatch):
    class Refused(Exception):
        pass

    def init(**_):
        raise Refused("api_key not configured")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Error=Refused))
    asked = dataclasses.replace(config, telemetry=dataclasses.replace(config.telemetry, wandb_project="digits"))
    with pytest.raises(UserError, match="api_key not configured.*WANDB_MODE=offline"):
        sinks.open_sinks(tmp_path, asked, 0)


def test_a_missing_package_is_told_before_anything_starts(config, monkeypatch):
    for package, fields in (("tensorboardX", {"tensorboard": True}), ("wandb", {"wandb_project": "digits"})):
        monkeypatch.setitem(sys.modules, package, None)
        asked = dataclasses.replace(config, telemetry=dataclasses.replace(config.telemetry, **fields))
        with pytest.raises(UserError, match=f"pip install {package}"):
            sinks.check_sinks(asked)


def test_the_line_shows_what_is_known(capsys):
    line = sinks.ProgressLine(2000)
    record = {"image_loss": 0.5, "text_loss": None, "examples_per_second": 12.3, "seconds_left": 3723, "skipped": 2}
    line.write(1000, record | {"mfu": 0.4567})
    told = capsys.readouterr().err
    assert told == (
        "step 1000/2000  image loss 0.5000  text loss -  12 examples/s  MFU 45.7%  2 skipped  1:02:03 left\n"
    )


def test_on_a_terminal_the_line_is_redrawn_in_place(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    line = sinks.ProgressLine(10)
    for step in (1, 2):
        line.write(step, {"image_loss": 0.5, "examples_per_second": 1.0, "seconds_left": 3})
    line.close()
    told = capsys.readouterr().err
    assert told.count("\r\033[K") == 2 and told.count("\n") == 1 and told.endswith("left\n")


def test_tensorboard_has_the_figures(tmp_path, config):
    """The package itself."""
    sink = sinks.TensorBoard(tmp_path, 0)
    sink.write(3, {"image_loss": 1.0, "text_loss_by_t": [2.0, None]})
    sink.close()
    events = next((tmp_path / "tensorboard").iterdir()).read_bytes()
    assert b"image_loss" in events and b"text_loss_by_t/0" in events and b"text_loss_by_t/1" not in events


def test_memory_is_that_of_the_fullest_device(tmp_path, config, monkeypatch):
    stats = [{"peak_bytes_in_use": 2**30}, {"peak_bytes_in_use": 3 * 2**30}, None]
    devices = [types.SimpleNamespace(memory_stats=lambda of=of: of) for of in stats]
    monkeypatch.setattr("dualdiff_jax.training.telemetry.recorder.jax.local_devices", lambda: devices)
    telemetry = open_telemetry(tmp_path, config, 0)
    telemetry.add(metrics(1.0))
    telemetry.write(1)
    assert records(tmp_path)[0]["memory_gib"] == 3.0


def test_operations_are_those_of_the_published_sizes():
    """SD3-medium's MMDiT at 512 px with 256 tokens: 2.011e12, T5-XXL: 2.397e12 (counted on the PyTorch modules)."""
    from dualdiff_jax.config import ModelConfig
    from dualdiff_jax.config.published import MMDIT, T5_XXL
    from dualdiff_jax.config.resolve import resolve

    sampling = {"height": 512, "width": 512}
    # The identity autoencoder with patches of 16 pixels sees as many tokens as 8-fold latents with patches of 2.
    model = resolve(
        {"mmdit": {**MMDIT, "patch_size": 16}, "t5": T5_XXL, "autoencoder": {"channels": 3}, "sampling": sampling},
        ModelConfig,
    )
    flops = forward_flops(model, 512, 512, 256)
    networks = {name: sum(of for leaf, of in flops.items() if leaf.startswith(name)) for name in ("mmdit", "t5")}
    assert networks["t5"] == pytest.approx(2.397e12, rel=2e-3)
    assert networks["mmdit"] == pytest.approx(2.011e12, rel=3e-3)
    assert flops["mmdit.attention"] == pytest.approx(0.242e12, rel=2e-3)


def test_a_step_needs_the_head_of_each_stream_and_no_t5_for_captions_that_are_stored(config):
    """T5 is frozen, so its part is one forward pass; the heads' are three."""
    both, (height, width) = len(config.objective.streams), (config.data.sources[0].height, config.data.sources[0].width)
    flops = forward_flops(config.model, height, width, config.data.text_length)
    heads = flops["mmdit.text_out.kernel"], flops["mmdit.image_out.kernel"]
    networks = {name: sum(of for leaf, of in flops.items() if leaf.startswith(name)) for name in ("mmdit", "t5")}
    trained = [name for name in flops if name.startswith("mmdit.")]
    expected = config.train.global_batch_size * (3 * (2 * networks["mmdit"] - sum(heads)) + 2 * networks["t5"])
    assert both == 2 and step_flops(config, trained) == pytest.approx(expected)
    stored = step_flops(config, trained, has_text_embeddings=True)
    assert stored == pytest.approx(expected - config.train.global_batch_size * networks["t5"])


def test_devices_are_known_by_their_kind():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("TPU v5 lite") == 197e12 and peak_flops("TPU v5p") == 459e12
    assert peak_flops("cpu") is None
