"""The web page: a loaded model in a browser. Only ``page``, ``door`` and ``tabs`` import Gradio."""
