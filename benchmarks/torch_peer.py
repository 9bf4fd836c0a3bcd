"""The other side of a comparison: the same model in PyTorch.

Networks: the parity tests' transformer, from diffusers' SD3 blocks, transformers' T5 encoder, diffusers' autoencoder.
Loops and training step are those of the original (arXiv 2501.00289): both heads in every pass, Euler with guidance in
one batch, ancestral sampling on a fixed grid of t that evaluates the networks again only if a token has changed. Where
the original is slower without need, the peer takes the faster form: no gradient bookkeeping in sampling, a fused or
multi-tensor optimizer and EMA, no pass over an unchanged batch, frozen networks in half precision.
Training in bf16 is autocast over fp32 weights; sampling has the weights in bf16.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.torch_draws import CorruptedTensors, Draws, ids, tensors
from dualdiff_jax.config import RunConfig
from dualdiff_jax.convert.state_dict import to_torch
from dualdiff_jax.objectives.joint import Corrupted
from dualdiff_jax.objectives.masked_diffusion import NEVER
from dualdiff_jax.objectives.time_sampling import TIMESTEPS
from dualdiff_jax.sampling.ancestral_order import T_END
from dualdiff_jax.sampling.flow_sampler import sigma_grid
from tests.parity.reference import ReferenceMMDiT, decode_as_sd3, reference_autoencoder, reference_t5

TensorBatch = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]  # a step's two batches on the device


def set_threads(threads: int) -> None:
    torch.set_num_threads(threads)


class Networks(NamedTuple):
    mmdit: nn.Module
    t5: nn.Module
    autoencoder: nn.Module | None  # None: pixels are the latents


def build(config: RunConfig, device: str) -> Networks:
    """All networks in fp32, with torch's own initial weights."""
    with torch.device(device):
        mmdit, t5 = ReferenceMMDiT(config.model), reference_t5(config.model)
        autoencoder = reference_autoencoder(config.model) if config.model.autoencoder.kind == "kl" else None
    if autoencoder is not None:
        autoencoder.requires_grad_(False).to(device=device, memory_format=torch.channels_last)
    return Networks(mmdit.to(device), t5.to(device), autoencoder)


def load(networks: Networks, weights: Mapping[str, np.ndarray], config: RunConfig) -> None:
    """Loads our weights (all leaves, by name) into the networks."""
    state_dict = {key: torch.from_numpy(np.array(value)) for key, value in to_torch(weights, config.model).items()}
    for network in networks:
        known = {} if network is None else network.state_dict()
        if known:
            network.load_state_dict({key: state_dict[key] for key in known if key in state_dict}, strict=False)


class TorchPeer:
    """``networks`` in the compute dtype of ``config``, with samplers and, if ``is_training``, a training step."""

    def __init__(
        self, config: RunConfig, networks: Networks, *, null_token_ids, mask_token_id: int, is_training: bool = True
    ):
        self.config, self.mask_token_id = config, mask_token_id
        self.mmdit, self.t5, self.autoencoder = networks
        self.device = next(self.mmdit.parameters()).device
        self.dtype = getattr(torch, config.model.compute_dtype)
        self.null_token_ids = ids(null_token_ids).to(self.device)
        is_t5_trained = any(name.startswith("t5") for name in config.train.trainable)
        self.t5.requires_grad_(is_t5_trained)
        kept = [self.mmdit] * is_training + [self.t5] * (is_training and is_t5_trained)
        for network in networks:
            if network is not None and network not in kept:
                network.to(self.dtype)
        is_mixed = is_training and self.dtype != torch.float32
        self._precision = torch.autocast(self.device.type, self.dtype) if is_mixed else contextlib.nullcontext()
        self.draws = Draws(self.config, self.null_token_ids, mask_token_id, self.autoencoder, self.dtype)
        if is_training:
            parameters = {**dict(self.mmdit.named_parameters()), **dict(self.t5.named_parameters())}
            self.parameters = {key: p for key, p in parameters.items() if p.requires_grad}
            self.updates = 0
            self.optimizer = self._make_optimizer()
            self.ema = [p.detach().clone() for p in self.parameters.values()]

    def compile(self, backend: str) -> None:
        """Compiles the repeated blocks with ``torch.compile``, once for all layers, as diffusers recommends."""
        for block in (*self.mmdit.transformer_blocks, *self.t5.encoder.block):
            block.compile(backend=backend, dynamic=False)

    def encode_text(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self.t5(token_ids).last_hidden_state

    def denoise(self, latents, timestep, text) -> tuple[torch.Tensor, torch.Tensor]:
        """latents (b, c, h, w), text (b, l, t5 width) -> velocity of the latents' shape in fp32, logits (b, l, v)."""
        dtype = self.mmdit.text_proj_out.weight.dtype
        velocity, logits = self.mmdit(latents.to(dtype), timestep, text.to(dtype))
        return velocity.float(), logits

    @torch.inference_mode()
    def evaluate(self, batch: Corrupted) -> tuple[np.ndarray, np.ndarray]:
        """Velocity (b, h, w, c) and logits (b, l, v) of the image batch."""
        fields = tensors(batch, self.device)
        text = self.encode_text(fields["image_token_ids"])
        velocity, logits = self.denoise(fields["noisy_latents"], TIMESTEPS * fields["sigma"], text)
        return velocity.permute(0, 2, 3, 1).cpu().numpy(), logits.cpu().numpy()

    @torch.inference_mode()
    def text_to_image(self, token_ids: np.ndarray, seed: int) -> torch.Tensor:
        """Images (b, c, h, w) by Euler with guidance, of the size, steps and scale of ``config.model.sampling``."""
        sampling, model = self.config.model.sampling, self.config.model
        generator = torch.Generator(self.device).manual_seed(seed)
        token_ids = ids(token_ids).to(self.device)
        text, null = self.encode_text(token_ids), self.encode_text(self.null_token_ids[None])
        both = torch.cat([null.expand_as(text), text])
        size = (side // model.autoencoder.downscale for side in (sampling.height, sampling.width))
        shape = (len(token_ids), self.mmdit.channels, *size)
        latents = torch.randn(shape, generator=generator, device=self.device)
        sigmas = sigma_grid(sampling.image_steps, sampling.sigma_shift).tolist()
        for now, following in zip(sigmas, sigmas[1:], strict=False):
            timestep = torch.full((len(both),), TIMESTEPS * now, device=self.device)
            velocity, _ = self.denoise(torch.cat([latents, latents]), timestep, both)
            unguided, guided = velocity.chunk(2)
            velocity = unguided + sampling.guidance_scale * (guided - unguided)
            latents = latents + (following - now) * velocity
        return latents if self.autoencoder is None else decode_as_sd3(self.autoencoder, latents.to(self.dtype))

    @torch.inference_mode()
    def image_to_text(self, images: np.ndarray, seed: int) -> tuple[torch.Tensor, int]:
        """Token ids (b, l) by ancestral sampling from masks alone, and the number of network evaluations.

        ``answer_length`` tokens in ``answer_steps`` steps; images (b, h, w, 3).
        """
        length, steps = self.config.model.sampling.answer_length, self.config.model.sampling.answer_steps
        generator = torch.Generator(self.device).manual_seed(seed)
        latents = self.draws.latents(torch.from_numpy(images).to(self.device), generator)
        token_ids = torch.full((len(latents), length), self.mask_token_id, device=self.device)
        clean = torch.zeros(len(latents), device=self.device)
        grid = torch.linspace(1.0, T_END, steps + 1).tolist()
        probs, evaluations = None, 0
        for t, s in zip(grid, grid[1:], strict=False):
            if probs is None:
                probs = self._text_log_probs(latents, clean, token_ids).exp()
                evaluations += 1
            weights = probs * (t - s)
            weights[..., self.mask_token_id] = s
            drawn = (weights / torch.empty_like(weights).exponential_(generator=generator)).argmax(dim=-1)
            following = torch.where(token_ids == self.mask_token_id, drawn, token_ids)
            if not torch.equal(following, token_ids):
                token_ids, probs = following, None
        if (token_ids == self.mask_token_id).any():
            best = self._text_log_probs(latents, clean, token_ids).argmax(dim=-1)
            token_ids, evaluations = torch.where(token_ids == self.mask_token_id, best, token_ids), evaluations + 1
        return token_ids.cpu(), evaluations

    def joint_loss(self, batch: CorruptedTensors) -> torch.Tensor:
        """The flow loss plus lambda times the NELBO, with both batches in one pass."""
        objective, known = self.config.objective, batch["image_text_embeddings"]
        if known is None:
            text = self.encode_text(torch.cat([batch["image_token_ids"], batch["noisy_token_ids"]]))
        else:
            text = torch.cat([known, self.encode_text(batch["noisy_token_ids"])])
        velocity, logits = self.denoise(
            torch.cat([batch["noisy_latents"], batch["text_latents"]]),
            torch.cat([TIMESTEPS * batch["sigma"], torch.zeros_like(batch["t"])]),
            text,
        )
        images = len(batch["sigma"])
        error = (velocity[:images] - batch["velocity"]).square().mean(dim=(1, 2, 3))
        if objective.image_weighting == "sigma_squared":
            error = batch["sigma"].square() * error
        clean = batch["clean_token_ids"]
        log_p = self._masked_log_probs(logits[images:]).gather(-1, clean[..., None])[..., 0]
        counted = batch["is_masked"] & (clean != self.mask_token_id)
        nelbo = -torch.where(counted, log_p, 0.0).sum(dim=-1) / batch["t"]
        return (batch["image_share"] * error).sum() + objective.text_weight * (batch["text_share"] * nelbo).sum()

    def gradients(self, batch: Corrupted) -> tuple[float, dict[str, np.ndarray]]:
        """The loss, and the gradient of every trained parameter, by key."""
        loss = self.joint_loss(tensors(batch, self.device))
        found = torch.autograd.grad(loss, self.parameters.values(), allow_unused=True)
        pairs = zip(self.parameters.items(), found, strict=True)
        return loss.item(), {k: np.zeros(p.shape, np.float32) if g is None else g.cpu().numpy() for (k, p), g in pairs}

    def place(self, batch: Sequence[Mapping[str, np.ndarray]]) -> TensorBatch:
        """A step's two batches as tensors on the device."""

        def tensor(value: np.ndarray) -> torch.Tensor:
            if value.dtype.name == "bfloat16":
                return torch.from_numpy(value.astype(np.float32)).to(torch.bfloat16)
            return ids(value) if np.issubdtype(value.dtype, np.integer) else torch.from_numpy(value)

        return tuple({name: tensor(value).to(self.device) for name, value in part.items()} for part in batch)

    def train_step(self, batch: TensorBatch, parts: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """One update: corrupt, differentiate in ``parts`` parts, clip, AdamW, EMA. Returns loss and gradient norm."""
        optimizer, settings = self.optimizer, self.config.optimizer
        self.updates += 1
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        with self._precision:
            corrupted = self.draws.corrupt(*batch, encode_text=self.encode_text)
        for part in range(parts):
            rows = {name: None if value is None else value[part::parts] for name, value in corrupted.items()}
            with self._precision:
                loss = self.joint_loss(rows)
            loss.backward()
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), settings.clip_norm, foreach=True)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, self.updates / max(settings.warmup_steps, 1))
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, list(self.parameters.values()), 1.0 - settings.ema_decay)
        return total, norm

    def _make_optimizer(self) -> torch.optim.AdamW:
        settings = self.config.optimizer
        decayed = [p for p in self.parameters.values() if p.ndim > 1 and p is not self.t5.shared.weight]
        others = [p for p in self.parameters.values() if all(p is not d for d in decayed)]
        groups = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        betas = (settings.beta1, settings.beta2)
        form = {"fused": True} if self.device.type == "cuda" else {"foreach": True}
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, **form)

    def _text_log_probs(self, latents: torch.Tensor, clean: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of masked tokens (b, l, v)."""
        return self._masked_log_probs(self.denoise(latents, clean, self.encode_text(token_ids))[1])

    def _masked_log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        is_mask_token = torch.arange(logits.shape[-1], device=logits.device) == self.mask_token_id
        return F.log_softmax(logits.float().masked_fill(is_mask_token, NEVER), dim=-1)
