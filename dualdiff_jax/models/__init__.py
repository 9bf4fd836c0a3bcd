"""The networks: the MMDiT, T5's encoder, the autoencoder, and the parts that they are built from."""

from flax import nnx

# Logical axes are metadata of a parameter, which sharding/ reads later, so a model can be built without a mesh.
nnx.use_eager_sharding(False)
