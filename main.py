"""Trains and samples Dual Diffusion: python main.py --mode=MODE --FLAG=VALUE ..."""

from dualdiff_jax.cli.main import run

if __name__ == "__main__":
    run()
