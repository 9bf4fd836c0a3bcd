"""The sizes that ``h100`` measures: the published 2B model, and a toy to try the command on any machine."""

import dataclasses
from typing import Any

from benchmarks.workload import Size
from dualdiff_jax.config import published
from dualdiff_jax.config.resolve import resolve


@dataclasses.dataclass(frozen=True)
class CardSize(Size):
    """A ``Size``, and the sizes of the phases without a model."""

    train_batches: tuple[int, ...]  # pairs, the largest first; planned with --mode=plan --topology=h100:1
    matmul: int  # side of the square product
    attention_batch: int
    attention_lengths: tuple[int, ...]  # joint sequences
    jax_kernels: tuple[str, ...]
    torch_kernels: tuple[str, ...]  # of torch.nn.attention.SDPBackend
    calls: int  # in a row, for what takes less than a millisecond
    compile_backend: str  # of torch.compile


def run_config(model: dict[str, Any], side: int, length: int, **train: Any) -> Any:
    """A run of ``model`` on square images of ``side`` pixels. It names sources, which are never opened."""
    shape = dict(root="-", files="-", height=side, width=side)
    sources = [dict(name=task, task=task, **shape) for task in ("image_generation", "captioning")]
    return resolve(
        {
            "model": model,
            "data": {"tokenizer": "-", "text_length": length, "sources": sources},
            "train": {"steps": 10_000, "remat": "dots", **train},
        }
    )


def full_size() -> CardSize:
    """512 px, 256 tokens, T5-XXL and the autoencoder; bf16 over fp32 master weights."""
    batches = (12, 8, 4)
    return CardSize(
        config=run_config(published.D_DIT_2B, 512, 256, global_batch_size=batches[0]),
        train_image=(512, 512),
        image_batches=(1, 16),
        text_batches=(1, 16),
        budget_s=5.0,
        train_batches=batches,
        matmul=8192,
        attention_batch=16,
        attention_lengths=(1024 + 256, 1024 + 128),
        jax_kernels=("cudnn", "xla"),
        torch_kernels=("FLASH_ATTENTION", "CUDNN_ATTENTION"),
        calls=20,
        compile_backend="inductor",
    )


def tiny_size() -> CardSize:
    """A toy with which every phase takes seconds, also on a CPU; its figures mean nothing."""
    model = dict(
        mmdit=dict(depth=2, width=32, heads=2, vocab_size=64, position_grid=8, position_base=8),
        t5=dict(vocab_size=64, width=16, depth=1, heads=2, head_dim=8, mlp_width=32),
        autoencoder=dict(kind="kl", channels=4, level_widths=(8, 8), level_depth=1, norm_groups=4),
        sampling=dict(height=16, width=16, text_length=8, image_steps=2, answer_length=8, answer_steps=2),
        compute_dtype="float32",  # a CPU cannot multiply bf16 matrices into fp32
    )
    return CardSize(
        config=run_config(model, 16, 8, global_batch_size=2),
        train_image=(16, 16),
        image_batches=(1, 2),
        text_batches=(1, 2),
        budget_s=0.0,
        train_batches=(2, 1),
        matmul=64,
        attention_batch=2,
        attention_lengths=(24,),
        jax_kernels=("xla",),
        torch_kernels=("MATH",),
        calls=2,
        compile_backend="aot_eager",
    )


SIZES = {"full": full_size, "tiny": tiny_size}
