"""The reference: D-DiT in torch, built from diffusers' SD3 modules.

Module names give the state dict the keys of a released checkpoint. The text stream is SD3's, except that the last
block updates it too, it has a head of its own, and there is no pooled text vector. The text encoder is transformers'
``T5EncoderModel`` and the autoencoder diffusers' ``AutoencoderKL``, both unchanged.
"""

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention import JointTransformerBlock
from diffusers.models.embeddings import PatchEmbed, TimestepEmbedding, Timesteps
from diffusers.models.normalization import AdaLayerNormContinuous
from torch import nn
from transformers import T5Config, T5EncoderModel

from dualdiff_jax.config import ModelConfig


class TimestepConditioning(nn.Module):
    """(b,) in [0, 1000] -> (b, width)."""

    def __init__(self, width: int):
        super().__init__()
        self.time_proj = Timesteps(num_channels=256, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.timestep_embedder = TimestepEmbedding(in_channels=256, time_embed_dim=width)

    def forward(self, timestep: torch.Tensor) -> torch.Tensor:
        dtype = self.timestep_embedder.linear_1.weight.dtype
        return self.timestep_embedder(self.time_proj(timestep).to(dtype))


class ReferenceMMDiT(nn.Module):
    """The transformer, with the sizes of ``config``; plain eager torch, all parameters trainable."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        sizes, self.channels = config.mmdit, config.autoencoder.channels
        if sizes.mlp_ratio != 4:
            raise ValueError(f"SD3's blocks have mlp_ratio 4, not {sizes.mlp_ratio}")
        width, self.patch_size = sizes.width, sizes.patch_size
        side = sizes.position_base * sizes.patch_size
        self.pos_embed = PatchEmbed(
            height=side,
            width=side,
            patch_size=sizes.patch_size,
            in_channels=self.channels,
            embed_dim=width,
            pos_embed_max_size=sizes.position_grid,
        )
        self.time_text_embed = TimestepConditioning(width)
        self.context_embedder = nn.Linear(config.t5.width, width)
        self.transformer_blocks = nn.ModuleList(
            JointTransformerBlock(width, sizes.heads, width // sizes.heads, context_pre_only=False)
            for _ in range(sizes.depth)
        )
        self.image_norm_out = AdaLayerNormContinuous(width, width, elementwise_affine=False, eps=1e-6)
        self.image_proj_out = nn.Linear(width, sizes.patch_size**2 * self.channels)
        self.text_norm_out = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.text_proj_out = nn.Linear(width, sizes.vocab_size)
        self.null_image_embd = nn.Parameter(torch.randn(1, sizes.null_image_tokens, width) * width**-0.5)

    def forward(
        self, latents: torch.Tensor | None, timestep: torch.Tensor, text_embeddings: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """latents (b, c, h, w) or None; timestep (b,); text (b, l, t5 width) -> velocity (b, c, h, w), logits."""
        if latents is None:
            image = self.null_image_embd.expand(len(text_embeddings), -1, -1)
        else:
            image = self.pos_embed(latents)
        conditioning = self.time_text_embed(timestep)
        text = self.context_embedder(text_embeddings)
        for block in self.transformer_blocks:
            text, image = block(image, text, conditioning)
        logits = self.text_proj_out(self.text_norm_out(text))
        if latents is None:
            return None, logits
        tokens = self.image_proj_out(self.image_norm_out(image, conditioning))
        batch, _, height, width = latents.shape
        p = self.patch_size
        squares = tokens.reshape(batch, height // p, width // p, p, p, self.channels)
        return torch.einsum("bhwpqc->bchpwq", squares).reshape(latents.shape), logits


def reference_t5(config: ModelConfig) -> T5EncoderModel:
    """transformers' encoder with the sizes of ``config``; without an attention mask it attends to every token."""
    t5 = config.t5
    sizes = T5Config(
        vocab_size=t5.vocab_size,
        d_model=t5.width,
        d_kv=t5.head_dim,
        d_ff=t5.mlp_width,
        num_layers=t5.depth,
        num_heads=t5.heads,
        relative_attention_num_buckets=t5.relative_buckets,
        relative_attention_max_distance=t5.relative_max_distance,
        feed_forward_proj="gated-gelu",
        layer_norm_epsilon=1e-6,
        dropout_rate=0.0,
    )
    return T5EncoderModel(sizes).eval()


def reference_autoencoder(config: ModelConfig) -> AutoencoderKL:
    """diffusers' autoencoder with the sizes of ``config``, without SD1's 1 x 1 convolutions around the latents."""
    sizes = config.autoencoder
    levels = len(sizes.level_widths)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=list(sizes.level_widths),
        layers_per_block=sizes.level_depth,
        latent_channels=sizes.channels,
        norm_num_groups=sizes.norm_groups,
        shift_factor=sizes.shift,
        scaling_factor=sizes.scale,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Draws every parameter and buffer anew, so that no initial zero, one or table hides a fault.

    Affine maps keep the size of activations: the gradient of a saturated softmax is the difference of nearly equal
    numbers, and would measure the rounding of both sides.
    """
    generator = torch.Generator().manual_seed(seed)
    size = {}
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            size[layer.weight] = layer.weight[0].numel() ** -0.5
            if layer.bias is not None:
                size[layer.bias] = 0.3
    for array in (*module.parameters(), *module.buffers()):
        array.normal_(generator=generator).mul_(size.get(array, 1.0))


def encode_as_sd3(autoencoder: AutoencoderKL, images: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
    """The scaled latents: the posterior's mode, or its sample for ``noise``."""
    posterior, config = autoencoder.encode(images).latent_dist, autoencoder.config
    sample = posterior.mode() if noise is None else posterior.mean + posterior.std * noise
    return (sample - config.shift_factor) * config.scaling_factor


def decode_as_sd3(autoencoder: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """The images of scaled latents."""
    config = autoencoder.config
    return autoencoder.decode(latents / config.scaling_factor + config.shift_factor).sample


class ForwardPass(NamedTuple):
    """The first input of a module and all of its outputs."""

    first_input: np.ndarray
    outputs: tuple[np.ndarray, ...]


@contextlib.contextmanager
def recorded(module: nn.Module, names: Iterable[str]) -> Iterator[dict[str, ForwardPass]]:
    """Records the last forward pass of each named submodule inside the context, by name."""
    passes: dict[str, ForwardPass] = {}

    def hook(name: str, _, inputs: tuple, output: torch.Tensor | tuple) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        passes[name] = ForwardPass(
            inputs[0].detach().numpy(), tuple(o.detach().numpy() for o in outputs if o is not None)
        )

    handles = [module.get_submodule(name).register_forward_hook(partial(hook, name)) for name in names]
    yield passes
    for handle in handles:
        handle.remove()


def channels_first(array: np.ndarray) -> torch.Tensor:
    """(b, h, w, c) -> (b, c, h, w), as torch has images and latents."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(array).transpose(0, 3, 1, 2)))


def channels_last(tensor: torch.Tensor) -> np.ndarray:
    """(b, c, h, w) -> (b, h, w, c), in fp32."""
    return tensor.detach().float().numpy().transpose(0, 2, 3, 1)


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """A copy of the state dict."""
    return {key: value.detach().numpy().copy() for key, value in module.state_dict().items()}


def gradients(module: nn.Module) -> dict[str, np.ndarray]:
    """The gradient of every parameter after ``backward``, by key; zero where the loss does not depend on it."""
    return {
        key: np.zeros(parameter.shape, np.float32) if parameter.grad is None else parameter.grad.numpy()
        for key, parameter in module.named_parameters()
    }
