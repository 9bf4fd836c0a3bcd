"""The phases of ``h100`` that run torch; see ``h100_phases``."""

import contextlib
import gc
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import agreement, jax_side, record
from benchmarks.h100_phases import HEAD_DIM, HEADS, Figure, attention_cases, figure
from benchmarks.h100_sizes import CardSize, tiny_size
from benchmarks.torch_peer import Networks, TorchPeer, build, load
from benchmarks.workload import Vocabulary, random_batch, random_weights
from dualdiff_jax.sharding import make_mesh

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TORCH_SIDES = ("torch", "torch_compiled")


def _finish() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def _peer(size: CardSize, networks: Networks, *, is_training: bool) -> TorchPeer:
    tokenizer = Vocabulary(size.config.model.mmdit.vocab_size)
    null, mask = tokenizer.null_ids(size.config.data.text_length), tokenizer.mask_token_id
    return TorchPeer(size.config, networks, null_token_ids=null, mask_token_id=mask, is_training=is_training)


def phase_torch_training(size: CardSize, batch: int | None) -> Iterator[Figure]:
    """``batch``: pairs in the step of the JAX side; None is the largest of ``size``."""
    side = torch.randn(size.matmul, size.matmul, dtype=torch.bfloat16, device=DEVICE)

    def product(_: int) -> None:
        for _ in range(size.calls):
            side @ side
        _finish()

    def matmul() -> Figure:
        measured = record.alone(product, budget_s=0.5, calls=size.calls)
        return measured | {"flops_per_s": 2 * size.matmul**3 / measured["median_s"]}

    yield figure("matmul", "torch", matmul)
    count = batch or size.train_batches[0]
    peer = _peer(size, build(size.config, DEVICE), is_training=True)
    parts = None
    for side_name in TORCH_SIDES:
        if side_name == "torch_compiled":
            peer.compile(size.compile_backend)
        for name in ("training_step", "training_step_encoded"):
            placed = peer.place(random_batch(size, count, is_encoded=name.endswith("encoded")))
            found = figure(name, side_name, lambda placed=placed, parts=parts: _step(size, peer, placed, count, parts))
            parts = found.get("microbatches", parts)  # parts that fit eagerly also fit the other steps
            yield found
            gc.collect()


def _step(size: CardSize, peer: TorchPeer, placed, count: int, parts: int | None) -> Figure:
    """Times the step, cut into as few parts as memory allows: it recomputes nothing, like the original."""
    candidates = [n for n in range(1, count + 1) if count % n == 0 and (parts is None or n >= parts)]
    for parts in candidates:

        def call(_: int, parts=parts) -> None:
            peer.train_step(placed, parts)
            _finish()

        with contextlib.suppress(torch.OutOfMemoryError):
            measured = record.alone(call, budget_s=size.budget_s)
            return measured | {"batch": count, "microbatches": parts, "pairs_per_s": count / measured["median_s"]}
        peer.optimizer.zero_grad(set_to_none=True)  # here, where the error no longer references the step's tensors
        gc.collect()
        torch.cuda.empty_cache()
    raise MemoryError(f"a step of {count} pairs does not fit, not even one pair at a time")


def phase_torch_sampling(size: CardSize, batch: int | None) -> Iterator[Figure]:
    peer = _peer(size, build(size.config, DEVICE), is_training=False)
    for side in TORCH_SIDES:
        if side == "torch_compiled":
            peer.compile(size.compile_backend)
        for way, count in size.samplings:

            def measure(way=way, count=count) -> Figure:
                make = {"text_to_image": _text_to_image, "image_to_text": _image_to_text}[way]
                found = record.alone(make(size, peer, count), budget_s=size.budget_s)
                return found | {"batch": count, "examples_per_s": count / found["median_s"]}

            yield figure(f"{way}_{count}", side, measure)


def _text_to_image(size: CardSize, peer: TorchPeer, count: int) -> record.Side:
    _, token_ids = jax_side.prompts(size, count)

    def call(seed: int) -> None:
        peer.text_to_image(token_ids, seed)
        _finish()

    return call


def _image_to_text(size: CardSize, peer: TorchPeer, count: int) -> record.Side:
    _, pixels = jax_side.photos(size, count)
    return lambda seed: peer.image_to_text(pixels, seed)[1]


def phase_torch_attention(size: CardSize, batch: int | None) -> Iterator[Figure]:
    for name, length, is_both in attention_cases(size):
        shape = (size.attention_batch, HEADS, length, HEAD_DIM)
        inputs = [torch.randn(shape, dtype=torch.bfloat16, device=DEVICE, requires_grad=is_both) for _ in range(3)]
        for kernel in size.torch_kernels:

            def call(_: int, kernel=kernel, inputs=inputs, is_both=is_both) -> None:
                with sdpa_kernel(getattr(SDPBackend, kernel)):
                    for _ in range(size.calls):
                        out = scaled_dot_product_attention(*inputs)
                        if is_both:
                            torch.autograd.grad(out, inputs, out.detach())
                _finish()

            side = f"torch_{kernel.partition('_')[0].lower()}"
            yield figure(name, side, lambda call=call: record.alone(call, budget_s=0.5, calls=size.calls))


def phase_agreement(size: CardSize, batch: int | None) -> Iterator[Figure]:
    """Differences of both sides: the toy in fp32 on this device, with the same weights."""

    def measure() -> Figure:
        tiny = tiny_size()  # it computes in fp32
        weights = random_weights(tiny.config.model, make_mesh(tiny.config.mesh))
        networks = build(tiny.config, DEVICE)
        load(networks, weights, tiny.config)
        peer = _peer(tiny, networks, is_training=True)
        found = agreement.differences(tiny, weights, peer)
        if beyond := agreement.beyond_bound(found):
            raise ValueError(f"the two sides differ: {', '.join(beyond)}; the bound is {agreement.BOUND:.0e}")
        return {"relative_differences": found}

    yield figure("agreement", "both", measure)
