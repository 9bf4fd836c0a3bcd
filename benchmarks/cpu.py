"""This implementation next to the same model in PyTorch, eager and compiled, on one CPU, in one run.

    python -m benchmarks.cpu [--output=benchmarks/results/cpu.json] [--sizes=demo,small] [--peers=eager,compiled]
        [--threads=N] [--allow_busy]

Training step, text to image and image to text, with the same random fp32 weights and the same number of threads
on both sides. Before anything is timed, both must give the same velocity, logits, loss and gradient. Samples
alternate, and the ratio torch/jax is taken pair by pair. PyTorch runs eagerly, then with its blocks compiled
(``torch.compile``, which needs a C++ compiler). It takes about ten minutes on two cores that are otherwise idle.
Samples during which other processes worked are discarded: torch waits for all its threads after each operation, so
another process slows it far more than us. ``--allow_busy`` keeps them, which the record shows; then only
``--threads=1`` and the ratio of processor time mean anything. Torch and diffusers: requirements-test.txt.
"""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # the compiler's own chatter
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import agreement, jax_side, record
from benchmarks.workload import Size, random_batch
from configs import demo
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.runtime import environment

if TYPE_CHECKING:
    from benchmarks.torch_peer import TorchPeer

PACKAGES = ("jax", "jaxlib", "flax", "torch", "diffusers", "transformers")


def demo_size() -> Size:
    """The demo's model, and its training step on wide images."""
    config = demo.get_config()
    config.optimizer.name = "adamw"  # as on the other side
    config.model.sampling.update(image_steps=28, answer_steps=12)
    return Size(resolve(config), train_image=(8, 16), image_batches=(1, 16), text_batches=(1, 16), budget_s=6.0)


def small_size() -> Size:
    """256 image and 64 text tokens, the full vocabulary, T5 frozen as in the published model."""
    config = demo.get_config()
    config.optimizer.name = "adamw"
    config.model.mmdit.update(depth=6, width=384, heads=6, vocab_size=32100)
    config.model.t5.update(vocab_size=32128, width=256, depth=2, heads=4, head_dim=64, mlp_width=512)
    config.model.autoencoder.channels = 3
    config.model.sampling.update(
        height=32, width=32, text_length=64, image_steps=28, guidance_scale=7.0, sigma_shift=3.0
    )
    config.model.sampling.update(answer_length=64, answer_steps=32)
    config.data.text_length = 64
    config.train.update(global_batch_size=2, trainable=("mmdit.*",))
    return Size(resolve(config), train_image=(32, 32), image_batches=(1, 2), text_batches=(1, 8), budget_s=12.0)


PEERS = ("eager", "compiled")
SIZES = {"demo": demo_size, "small": small_size}
Sides = tuple[record.Side, record.Side]


def figures(size: Size, pipeline: DualDiffusionPipeline, peer: "TorchPeer") -> Iterator[tuple[str, int, Sides]]:
    """Yields (name, batch, (our side, their side)), to be timed."""
    count = size.config.train.global_batch_size
    batch = random_batch(size, count)
    placed = peer.place(batch)
    yield "training_step", count, (jax_side.Training(size).on(batch), lambda _: _nothing(peer.train_step(placed)))
    for count in size.image_batches:
        _, token_ids = jax_side.prompts(size, count)
        theirs = _text_to_image(peer, token_ids)
        yield "text_to_image", count, (jax_side.text_to_image(size, pipeline, count), theirs)
    for count in size.text_batches:
        _, pixels = jax_side.photos(size, count)
        yield "image_to_text", count, (jax_side.image_to_text(size, pipeline, count), _image_to_text(peer, pixels))


def _text_to_image(peer: "TorchPeer", token_ids: np.ndarray) -> record.Side:
    return lambda seed: _nothing(peer.text_to_image(token_ids, seed))


def _image_to_text(peer: "TorchPeer", pixels: np.ndarray) -> record.Side:
    return lambda seed: peer.image_to_text(pixels, seed)[1]


def _nothing(_: Any) -> None:
    """Drops a result: on the CPU, it is computed when the call returns."""


def measure(name: str, peers: Sequence[str], *, allow_busy: bool) -> Iterator[dict[str, Any]]:
    """Yields the differences of both sides, then each figure, beside each of ``peers``."""
    from benchmarks import torch_peer

    size = SIZES[name]()
    pipeline = jax_side.open_pipeline(size, "float32")
    networks = torch_peer.build(size.config, "cpu")
    weights = jax_side.weights_of(size, "float32")
    torch_peer.load(networks, weights, size.config)
    null = pipeline.tokenizer.null_ids(size.config.data.text_length)
    mask = pipeline.tokenizer.mask_token_id
    peer = torch_peer.TorchPeer(size.config, networks, null_token_ids=null, mask_token_id=mask)
    found = agreement.differences(size, weights, peer)
    if beyond := agreement.beyond_bound(found):
        sys.exit(f"error: the two sides differ: {', '.join(beyond)}; the bound is {agreement.BOUND:.0e}")
    yield {"size": name, "differences": found}
    for mode in peers:
        if mode == "compiled":
            peer.compile("inductor")
        for figure, count, (ours, theirs) in figures(size, pipeline, peer):
            measured = record.interleave(ours, theirs, budget_s=size.budget_s, allow_busy=allow_busy)
            yield {"size": name, "figure": figure, "peer": mode, "batch": count} | measured


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="benchmarks/results/cpu.json", help="JSON file to write")
    parser.add_argument("--sizes", default=",".join(SIZES), help="which models, comma-separated")
    parser.add_argument("--peers", default=",".join(PEERS), help="how PyTorch runs, comma-separated")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="cores for both sides")
    parser.add_argument("--allow_busy", action="store_true", help="keep samples taken while other processes worked")
    options = parser.parse_args()
    sizes = options.sizes.split(",")
    if unknown := [name for name in sizes if name not in SIZES]:
        parser.error(f"--sizes: {', '.join(unknown)} is unknown; give some of {', '.join(SIZES)}")
    peers = sorted(options.peers.split(","), key=lambda peer: peer != "eager")  # what is compiled stays compiled
    if unknown := [peer for peer in peers if peer not in PEERS]:
        parser.error(f"--peers: {', '.join(unknown)} is unknown; give some of {', '.join(PEERS)}")
    available = sorted(os.sched_getaffinity(0))
    if not 1 <= options.threads <= len(available):
        parser.error(f"--threads={options.threads}: give 1 to {len(available)}")
    os.sched_setaffinity(0, available[: options.threads])  # before either side starts its threads
    environment.keep_memory()  # the allocator's settings hold for both sides
    try:
        from benchmarks import torch_peer
    except ImportError as error:
        sys.exit(f"error: the comparison needs {error.name}; run: pip install -r requirements-test.txt")
    torch_peer.set_threads(options.threads)
    result = record.circumstances(options.threads, PACKAGES) | {"agreement": {}, "figures": []}
    try:
        for name in sizes:
            for found in measure(name, peers, allow_busy=options.allow_busy):
                _add(result, found)
    except record.BusyMachineError as error:
        sys.exit(f"error: {error}; stop that work and try again, or keep such samples with --allow_busy")
    record.write(result, options.output)
    print(f"\n{record.table(result['figures'])}\n\nwritten to {options.output}")


def _add(result: dict[str, Any], found: dict[str, Any]) -> None:
    """Adds an agreement or a figure to the record, and prints it."""
    if "differences" in found:
        result["agreement"][found["size"]] = found["differences"]
        print(f"{found['size']}: the two sides agree; relative differences {found['differences']}", flush=True)
    else:
        result["figures"].append(found)
        print(record.table([found]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
