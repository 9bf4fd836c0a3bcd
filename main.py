"""The command line, from a checkout: ``python main.py --help`` lists its flags."""

from dualdiff_jax.cli.main import run

if __name__ == "__main__":
    run()
