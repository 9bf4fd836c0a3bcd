"""The tests that belong to each module of the core: those that are about it first, the long ones last."""

UNIT, PARITY, RUNS = "tests/unit", "tests/parity", "tests/end_to_end"
OBJECTIVES, MODELS, SAMPLING = f"{UNIT}/objectives", f"{UNIT}/models", f"{UNIT}/sampling"
DATA, TRAINING, CONVERT = f"{UNIT}/data", f"{UNIT}/training", f"{UNIT}/convert"

JOINT = (
    f"{OBJECTIVES}/test_joint.py",
    f"{OBJECTIVES}/test_by_clock.py",
    f"{OBJECTIVES}/test_latents.py",
    f"{OBJECTIVES}/test_stored_text.py",
    f"{PARITY}/test_objectives.py",
)
WHOLE_MODEL = (
    f"{MODELS}/test_mmdit.py",
    f"{MODELS}/test_bundle.py",
    f"{PARITY}/test_mmdit.py",
    "tests/house/test_placements.py",
)
LAYERS = (f"{MODELS}/test_blocks.py", *WHOLE_MODEL)
MANY_DEVICES = ("tests/multidevice/test_layouts.py", "tests/multidevice/test_fsdp.py")
SHARDING = (
    f"{UNIT}/test_sharding.py",
    f"{UNIT}/test_sharding_rules.py",
    "tests/house/test_placements.py",
    f"{MODELS}/test_bundle.py",
    *MANY_DEVICES,
)
UPDATES = (f"{TRAINING}/test_training.py", f"{TRAINING}/test_trainable.py", f"{PARITY}/test_learning.py")
STREAMS = (
    f"{DATA}/test_mixture_order.py",
    f"{DATA}/test_mixture.py",
    f"{DATA}/test_streams.py",
    f"{DATA}/test_encoded.py",
    f"{DATA}/test_bad_records.py",
)
IMPORTS = (
    f"{CONVERT}/test_plan.py",
    f"{PARITY}/test_state_dict.py",
    f"{CONVERT}/test_refusals.py",
    f"{CONVERT}/test_damaged_descriptions.py",
    f"{CONVERT}/test_files_people_have.py",
    f"{CONVERT}/test_components.py",
    f"{CONVERT}/test_writing.py",
)

TESTS = {
    "objectives/flow_matching.py": (f"{OBJECTIVES}/test_flow_matching.py", *JOINT),
    "objectives/joint.py": (*JOINT, f"{TRAINING}/test_trainable.py"),
    "objectives/latents.py": (f"{OBJECTIVES}/test_latents.py", *JOINT),
    "objectives/masked_diffusion.py": (
        f"{OBJECTIVES}/test_masked_diffusion.py",
        f"{OBJECTIVES}/test_nats_per_token.py",
        *JOINT,
        f"{SAMPLING}/test_masked_sampler.py",
    ),
    "objectives/any_order.py": (f"{OBJECTIVES}/test_any_order.py", f"{UNIT}/pipeline/test_score.py"),
    "objectives/time_sampling.py": (
        f"{OBJECTIVES}/test_time_sampling.py",
        *JOINT,
        f"{SAMPLING}/test_flow_sampler.py",
    ),
    "models/activations.py": (
        f"{MODELS}/test_activations.py",
        f"{MODELS}/test_t5_encoder.py",
        *LAYERS,
        f"{PARITY}/test_t5.py",
    ),
    "models/attention.py": (
        f"{MODELS}/test_attention.py",
        f"{MODELS}/test_attention_kernels.py",
        *LAYERS,
        f"{MODELS}/test_t5_encoder.py",
        *MANY_DEVICES[:1],
        f"{PARITY}/test_bfloat16.py",
    ),
    "models/autoencoder.py": (f"{MODELS}/test_autoencoder.py", f"{PARITY}/test_autoencoder.py"),
    "models/blocks.py": (*LAYERS, f"{MODELS}/test_passes.py"),
    "models/bundle.py": (
        f"{MODELS}/test_bundle.py",
        *WHOLE_MODEL,
        f"{MODELS}/test_t5_encoder.py",
        f"{UNIT}/pipeline/test_pipeline.py",
    ),
    "models/convolution.py": (
        f"{MODELS}/test_convolution.py",
        f"{MODELS}/test_autoencoder.py",
        f"{PARITY}/test_autoencoder.py",
    ),
    "models/embeddings.py": (f"{MODELS}/test_embeddings.py", *WHOLE_MODEL),
    "models/leaves.py": (
        f"{TRAINING}/test_trainable.py",
        f"{CONVERT}/test_plan.py",
        *WHOLE_MODEL,
        "tests/unit/test_sharding.py",
    ),
    "models/linear.py": (
        f"{MODELS}/test_linear.py",
        f"{MODELS}/test_remat.py",
        *LAYERS,
        f"{MODELS}/test_t5_encoder.py",
        f"{PARITY}/test_bfloat16.py",
    ),
    "models/lora.py": (f"{MODELS}/test_lora.py", f"{TRAINING}/test_trainable.py", f"{RUNS}/test_stages.py"),
    "models/head_pairs.py": (f"{MODELS}/test_joint_attention.py", f"{MODELS}/test_attention.py"),
    "models/joint_attention.py": (
        f"{MODELS}/test_joint_attention.py",
        "tests/house/test_placements.py",
        "tests/multidevice/test_joint_attention.py",
    ),
    "models/joint_kernel.py": (f"{MODELS}/test_joint_attention.py",),
    "models/mmdit.py": WHOLE_MODEL,
    "models/norms.py": (
        f"{MODELS}/test_norms.py",
        *LAYERS,
        f"{MODELS}/test_t5_encoder.py",
        f"{MODELS}/test_autoencoder.py",
        f"{PARITY}/test_t5.py",
        f"{PARITY}/test_autoencoder.py",
    ),
    "models/int8.py": (f"{MODELS}/test_int8.py",),
    "models/paired_attention.py": (f"{MODELS}/test_attention.py",),
    "models/passes.py": (f"{MODELS}/test_passes.py",),
    "models/remat.py": (
        f"{MODELS}/test_remat.py",
        f"{MODELS}/test_unrolled.py",
        f"{MODELS}/test_attention_kernels.py",
        f"{MODELS}/test_joint_attention.py",
    ),
    "models/separated.py": (
        f"{MODELS}/test_passes.py",
        f"{MODELS}/test_int8.py",
        f"{MODELS}/test_lora.py",
        f"{UNIT}/pipeline/test_pipeline.py",
    ),
    "models/stack.py": (f"{MODELS}/test_stack.py", f"{MODELS}/test_passes.py", f"{MODELS}/test_remat.py", *LAYERS),
    "models/t5_encoder.py": (f"{MODELS}/test_t5_encoder.py", f"{MODELS}/test_bundle.py", f"{PARITY}/test_t5.py"),
    "models/unrolled.py": (f"{MODELS}/test_unrolled.py", f"{MODELS}/test_remat.py"),
    "sampling/flow_sampler.py": (
        f"{SAMPLING}/test_flow_sampler.py",
        f"{SAMPLING}/test_image_samplers.py",
        f"{UNIT}/pipeline/test_pipeline.py",
        f"{PARITY}/test_samplers.py",
    ),
    "sampling/guidance.py": (
        f"{SAMPLING}/test_guidance.py",
        f"{UNIT}/pipeline/test_pipeline.py",
        f"{PARITY}/test_samplers.py",
    ),
    "sampling/guidance_schedule.py": (
        f"{SAMPLING}/test_guidance_schedule.py",
        f"{UNIT}/pipeline/test_image_options.py",
    ),
    "sampling/known_region.py": (f"{SAMPLING}/test_known_region.py", f"{UNIT}/pipeline/test_edits.py"),
    "sampling/ancestral_order.py": (f"{SAMPLING}/test_ancestral_order.py", f"{SAMPLING}/test_masked_sampler.py"),
    "sampling/blocks.py": (
        f"{SAMPLING}/test_certainty.py",
        f"{SAMPLING}/test_ancestral_order.py",
        f"{SAMPLING}/test_masked_sampler.py",
    ),
    "sampling/certainty.py": (
        f"{SAMPLING}/test_certainty.py",
        f"{SAMPLING}/test_masked_sampler.py",
        f"{PARITY}/test_samplers.py",
    ),
    "sampling/masked_sampler.py": (
        f"{SAMPLING}/test_masked_sampler.py",
        f"{SAMPLING}/test_certainty.py",
        f"{SAMPLING}/test_ancestral_order.py",
        f"{UNIT}/pipeline/test_text_choices.py",
        f"{UNIT}/pipeline/test_stream_text.py",
        f"{PARITY}/test_samplers.py",
    ),
    "sampling/text_guidance.py": (f"{UNIT}/pipeline/test_text_choices.py",),
    "sampling/text_network.py": (f"{UNIT}/sampling/test_text_network.py",),
    "sampling/text_options.py": (
        f"{SAMPLING}/test_text_options.py",
        f"{SAMPLING}/test_token_draws.py",
        f"{SAMPLING}/test_masked_sampler.py",
        f"{UNIT}/pipeline/test_text_choices.py",
    ),
    "sampling/text_samplers.py": (
        f"{SAMPLING}/test_text_options.py",
        f"{SAMPLING}/test_masked_sampler.py",
        f"{UNIT}/pipeline/test_inputs.py",
        f"{UNIT}/pipeline/test_stream_text.py",
    ),
    "sampling/token_rules.py": (f"{UNIT}/pipeline/test_infill.py",),
    "sampling/token_draws.py": (f"{SAMPLING}/test_token_draws.py", f"{SAMPLING}/test_masked_sampler.py"),
    "training/step.py": (*UPDATES, f"{MANY_DEVICES[1]}"),
    "training/trainable.py": (
        f"{TRAINING}/test_trainable.py",
        f"{TRAINING}/test_training.py",
        f"{RUNS}/test_stages.py",
    ),
    "training/optimizer.py": (*UPDATES, f"{TRAINING}/test_optimizer.py"),
    "training/state.py": (*UPDATES, f"{TRAINING}/test_checkpoint.py"),
    "training/checkpoint.py": (
        f"{TRAINING}/test_checkpoint_hosts.py",
        f"{TRAINING}/test_checkpoint.py",
        f"{TRAINING}/test_flipped_bits.py",
        f"{RUNS}/test_faults.py",
        f"{RUNS}/test_resume.py",
    ),
    "training/initial_weights.py": (
        f"{TRAINING}/test_initial_weights.py",
        f"{CONVERT}/test_components.py",
        f"{RUNS}/test_stages.py",
    ),
    "data/mixture.py": STREAMS,
    "data/fingerprint.py": (f"{DATA}/test_fingerprint.py", f"{DATA}/test_mixture.py"),
    "data/images.py": (f"{DATA}/test_image_limits.py", f"{DATA}/test_images.py", f"{DATA}/test_mixture.py"),
    "data/decoding.py": (f"{DATA}/test_image_limits.py", f"{DATA}/test_images.py", f"{DATA}/test_containers.py"),
    "data/containers.py": (f"{DATA}/test_containers.py",),
    "data/texts.py": (f"{DATA}/test_texts.py", f"{PARITY}/test_tokenizer.py", f"{DATA}/test_mixture.py"),
    "data/resample.py": (f"{DATA}/test_resample.py", f"{DATA}/test_images.py"),
    "sharding/mesh.py": SHARDING,
    "sharding/placement.py": SHARDING,
    "sharding/rules.py": SHARDING,
    "runtime/checksums.py": (f"{UNIT}/test_stored_arrays.py", f"{TRAINING}/test_flipped_bits.py"),
    "stored_arrays.py": (f"{UNIT}/test_stored_arrays.py", f"{UNIT}/test_model_folder.py", f"{CONVERT}/test_writing.py"),
    "weights.py": (
        f"{UNIT}/test_model_folder.py",
        f"{UNIT}/pipeline/test_pipeline.py",
        f"{CONVERT}/test_writing.py",
        f"{CONVERT}/test_components.py",
        f"{RUNS}/test_stages.py",
        f"{RUNS}/test_resume.py",
    ),
    "convert/rule.py": IMPORTS,
    "convert/plan.py": IMPORTS,
    "convert/sd3_keys.py": (*IMPORTS, f"{PARITY}/test_mmdit.py", f"{PARITY}/test_import.py"),
    "convert/mmdit_keys.py": (*IMPORTS, f"{PARITY}/test_mmdit.py"),
    "convert/lora_terms.py": (f"{CONVERT}/test_lora.py", f"{CONVERT}/test_lora_files.py"),
    "convert/lora_keys.py": (f"{CONVERT}/test_lora.py", f"{CONVERT}/test_lora_files.py"),
    "convert/t5_keys.py": (*IMPORTS, f"{PARITY}/test_t5.py"),
    "convert/autoencoder_keys.py": (*IMPORTS, f"{PARITY}/test_autoencoder.py", f"{PARITY}/test_import.py"),
}


def belonging_to(module: str) -> list[str]:
    """The test files of ``module``, a path inside the package, each once."""
    return list(dict.fromkeys(TESTS[module]))
