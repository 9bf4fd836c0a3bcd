"""A trained model, ready to sample in both directions.

    pipe = DualDiffusionPipeline.from_pretrained(MODEL_DIR)  # or ORGANISATION/NAME on the hub
    images = pipe.text_to_image(["a handwritten three"], seed=0)
    captions = pipe.image_to_text(images, seed=0)
    answers = pipe.answer(images, ["which digit is this?"], seed=0)
    texts = pipe.infill("a photo of the digit _", images, seed=0)
    scores = pipe.score(images, ["a handwritten three", "a handwritten five"], seed=0)
Results are a function of the inputs and the seed: an example does not depend on its neighbours in the list.
"""

from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from dualdiff_jax import files
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.diffusers_folder import INDEX_FILE
from dualdiff_jax.convert.importer import open_pipeline
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.hub import download, is_hub_name
from dualdiff_jax.models.bundle import check_attention
from dualdiff_jax.models.separated import separated_weights, with_t5_in_8_bits
from dualdiff_jax.pipeline import inputs
from dualdiff_jax.pipeline.compile_calls import CompileCalls
from dualdiff_jax.pipeline.devices import sampling_mesh
from dualdiff_jax.pipeline.edit_calls import EditCalls
from dualdiff_jax.pipeline.infill_calls import InfillCalls
from dualdiff_jax.pipeline.joint_calls import JointCalls
from dualdiff_jax.pipeline.lora_calls import LoraCalls
from dualdiff_jax.pipeline.score_calls import ScoreCalls
from dualdiff_jax.pipeline.share_calls import ShareCalls
from dualdiff_jax.weights import is_model_folder, load_config, load_model, with_dtype


class DualDiffusionPipeline(EditCalls, InfillCalls, ScoreCalls, JointCalls, CompileCalls, LoraCalls, ShareCalls):
    """A loaded model that takes texts and images of a user and returns images and texts.

    Batches are split over the mesh's ``data`` and ``fsdp`` axes. A call that cannot use an argument raises a
    ``UserError`` that names it. Calls share these options; None stands for the model's own, ``config.sampling``:
        images: what ``arrays_in.as_images`` takes: paths, bytes of files, PIL images, uint8 arrays; one or several.
        seed: in [0, 2**64); or one for each prompt or image, whose result then depends on its own seed alone.
        height, width: of the images in pixels, multiples of what one image token covers.
        steps: of the sampler; docs/sampling.md has the evaluations of the model that each sampler makes of them.
        length: tokens of prompt and result together.
        progress: called after each batch with (examples finished, examples in all).
    """

    @classmethod
    @inputs.checks_names
    @files.bucket_sentences()
    def from_pretrained(
        cls,
        path: str | Path,
        mesh: Mesh | None = None,
        dtype: str | None = None,
        cache: bool = False,
        t5_bits: int | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> "DualDiffusionPipeline":
        """Loads a model folder, or a diffusers folder of D-DiT or SD3, which is converted as it is read.

        Args:
            path: the folder; it may lie in a bucket, ``gs://bucket/folder``, or be a model of the Hugging Face hub,
                ``ORGANISATION/NAME``, which is downloaded (``hub.download``) unless a folder ORGANISATION is here.
            mesh: where the weights go; by default all devices of all processes: whole weights on each where they fit,
                else each weight in shards. Batches are split over them.
            dtype: "float32" or "bfloat16", for the weights and for what the model computes in; None keeps both as
                they are stored.
            t5_bits: 8 keeps the kernels of T5's blocks in 8 bits (``models/int8.py``): approximate, and less to read.
            cache: writes the converted weights of a diffusers folder beside it, as a model folder of its name with
                ``.dualdiff_jax`` added, and reads that one from then on.
            revision: of a model on the hub: a branch, tag or commit; None is the main branch.
            token: for a private or gated model on the hub; None takes HF_TOKEN or the login of the ``hf`` command.

        Returns:
            The pipeline.

        Raises:
            UserError: the folder is damaged, or is no such model; its ``attention`` is no kernel of this platform; the
                bucket refuses, or does not answer; or the hub does not have it, or cannot be reached.
        """
        for name, value in {"revision": revision, "token": token}.items():
            if not isinstance(value, str | None):
                raise UserError(f"{name} is {quoted(value)}; give a text, or None")
        cache = inputs.yes_or_no("cache", cache)
        if dtype is not None:
            inputs.choice("dtype", dtype, ("float32", "bfloat16"))
        if isinstance(path, str | Path) and is_hub_name(path):
            path = download(str(path), revision, token)
        elif revision is not None:
            raise UserError(f"revision: {quoted(path)} is no model on the hub, which alone has revisions; leave it out")
        path = inputs.as_path("path", path)
        if mesh is not None:
            inputs.check_mesh("mesh", mesh)
        if t5_bits is not None and not (isinstance(t5_bits, int | np.integer) and t5_bits == 8):
            raise UserError(f"t5_bits is {quoted(t5_bits)}; give 8, or None for T5 as it is")

        def choose_mesh(config: ModelConfig) -> Mesh:  # called before weights are read
            check_attention(with_dtype(config, dtype))
            return sampling_mesh(config, dtype) if mesh is None else mesh

        if path.is_dir() and not is_model_folder(path) and (path / INDEX_FILE).is_file():
            config, weights, tokenizer = open_pipeline(path, choose_mesh, dtype, cache)
        else:
            config, weights, tokenizer = load_model(path, choose_mesh(load_config(path)), dtype)
        separated = separated_weights(config, weights)
        return cls(config, with_t5_in_8_bits(config, separated) if t5_bits else separated, tokenizer)
