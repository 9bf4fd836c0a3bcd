"""What the command line can do, in the order of ``--help``."""

SHELLS = ("bash", "zsh", "fish")  # for which --completion prints a script
GOES_ON = ("train", "evaluate", "encode-data")  # modes that keep what they have done if they are stopped
MODES = {  # mode -> what it does, an example
    "train": ("trains, or resumes a run", "--config=configs/demo.py --workdir=runs/mine"),
    "generate": ("text to image", '--model=M --prompt="a handwritten three" --output=out'),
    "edit": ("image and text to image", '--model=M --image=a.png --prompt="a handwritten eight" --output=out'),
    "inpaint": (
        "redraws the white part of a mask",
        '--model=M --image=a.png --mask=m.png --prompt="a handwritten eight" --output=out',
    ),
    "variations": ("images like an image", "--model=M --image=a.png --output=out"),
    "joint": ("images and their texts, drawn together", "--model=M --count=4 --output=out"),
    "caption": ("image to text", "--model=M --image=a.png"),
    "answer": ("a question about an image", '--model=M --image=a.png --question="which digit is this?"'),
    "infill": ("fills the blanks of a text about an image", '--model=M --image=a.png --text="the digit _"'),
    "evaluate": ("scores a model on benchmarks", "--model=M --task=vqav2 --data=DIR --output=scores"),
    "score": ("how well texts fit an image", '--model=M --image=a.png --text="a three" --text="a six"'),
    "app": ("a web page for all of these (docs/app.md)", "--model=M"),
    "plan": ("compiles a config for chips that are not here", "--config=configs/demo.py --topology=v5e:2x2"),
    "list-images": ("writes metadata.json for a folder of pictures", '--images=photos --text="a photo of my dog"'),
    "inspect-data": ("figures of the data, and a page with what the model sees", "--config=configs/demo.py"),
    "encode-data": (
        "stores what the frozen networks make of the data",
        "--config=configs/demo.py --model=M --output=encoded",
    ),
    "check": ("looks at all that a run needs before it costs anything", "--config=configs/demo.py --workdir=runs/mine"),
    "compare": ("paired differences of two evaluations", "scores/a scores/b"),
}
