"""Looking at data before training on it."""

import json
import re
import runpy

import pytest

from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.inspection.survey import survey
from tests.end_to_end.command import refused, run, run_here
from tests.small_run import RECORDS, write_config, write_data


def lines_of(block):
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in block.splitlines() if not line.startswith("  "))


def test_inspect_data_prints_figures_and_writes_a_page(tmp_path):
    write_data(tmp_path / "data")
    file = tmp_path / "data" / "captions.json"
    records = json.loads(file.read_text())
    (tmp_path / "data" / "images" / "5.png").unlink()
    records[7]["caption"] = 7
    records[3]["caption"] = "a " * 20 + "<script>alert(1)</script>"
    records[3]["re_caption"] = records[3]["caption"]
    file.write_text(json.dumps(records))
    write_config(tmp_path / "config.py", tmp_path / "data")
    out = tmp_path / "out"
    done = run("--mode=inspect-data", f"--config={tmp_path / 'config.py'}", f"--output={out}", "--samples=1000")
    assert done.returncode == 0, done.stderr
    *blocks, name = done.stdout.strip().split("\n\n")
    assert name == str(out / "data.html")
    images, captions, questions = map(lines_of, blocks)
    assert images["source"] == "images (json, image_generation, weight 1)"
    assert captions["records"] == f"{RECORDS}, looked at {RECORDS}"
    assert captions["bad"] == "2 (5.0%): 1 missing file, 1 wrong type"
    assert captions["image width"] == "8 to 8, half of them 8 to 8, median 8 px"
    assert captions["texts that lost tokens"].startswith("1 (")
    assert captions["shapes"] == f"8 x 8: {RECORDS - 2}"
    assert questions["bad"] == "1 (2.5%): 1 missing file" and questions["turns of a dialogue"].startswith("1 to 1")
    assert float(questions["examples per second"].split()[0]) > 1
    page = (out / "data.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!data:image)', page)  # nothing beside it
    assert page.count("<figure>") == 3 * 12
    assert page.count("data:image/png;base64,") > 60  # of each example the whole image and what the model sees
    assert '<span class="">▁Q</span>' in page and '<span class="answer ">▁three</span>' in page
    assert "wrong type: captions.json[7]" in page


def test_inspect_data_counts_filtered_records(tmp_path):
    write_data(tmp_path / "data")
    write_config(tmp_path / "config.py", tmp_path / "data")
    filtered = "config.data.sources[1]['max_caption'] = 20\n    return config"
    config = tmp_path / "config.py"
    config.write_text(config.read_text().replace("return config", filtered))
    done = run_here(
        "--mode=inspect-data", f"--config={tmp_path / 'config.py'}", f"--output={tmp_path}", "--samples=1000"
    )
    assert done.returncode == 0, done.stderr
    captions = lines_of(done.stdout.split("\n\n")[1])
    records = json.loads((tmp_path / "data" / "captions.json").read_text())
    long = sum(max(len(r["caption"]), len(r["re_caption"])) > 20 for r in records)
    assert captions["filtered out"] == f"{long} ({long / RECORDS:.1%})" and long > 0


@pytest.mark.slow
def test_inspect_data_shows_encoded_data(tmp_path):
    write_data(tmp_path / "data")
    write_config(tmp_path / "config.py", tmp_path / "data")
    done = run("--mode=encode-data", f"--config={tmp_path / 'config.py'}", f"--output={tmp_path / 'encoded'}")
    assert done.returncode == 0, done.stderr
    config = tmp_path / "encoded.py"
    place = f'dict(format="array_record", root={str(tmp_path / "encoded")!r} + "/" + s["name"], files="*.array_record")'
    changed = f"config.data.sources = [s | {place} for s in config.to_dict()['data']['sources']]\n    return config"
    config.write_text((tmp_path / "config.py").read_text().replace("return config", changed))
    inspect = ("--mode=inspect-data", f"--config={config}", f"--output={tmp_path}")
    done = run(*inspect)
    assert done.returncode == 0, done.stderr
    images, captions, _ = map(lines_of, done.stdout.split("\n\n")[:3])
    assert images["encoded"] == "latents and embeddings of captions" and captions["encoded"] == "latents"
    assert images["bad"] == "0 (0.0%)" and images["shapes"] == f"8 x 8: {RECORDS}"
    assert (tmp_path / "data.html").read_text().count("data:image/png;base64,") == 3 * 12
    given = resolve(runpy.run_path(str(config))["get_config"]())
    found = survey(given.data.sources[0], given.data, Tokenizer(given.data.tokenizer), samples=3)
    assert len(found.shown) == 3 and all("text_embeddings" in shown.example for shown in found.shown)
    message = refused(*inspect, "--overwrite", "--config.data.text_length=11")
    assert "source 'images' has embeddings of captions at text_length 12, but data.text_length is 11" in message


def test_a_config_or_a_source_that_cannot_be_read_is_reported(tmp_path):
    assert "--mode=inspect-data needs --config=FILE" in refused("--mode=inspect-data")
    write_data(tmp_path / "data")
    (tmp_path / "data" / "questions.json").unlink()
    write_config(tmp_path / "config.py", tmp_path / "data")
    message = refused("--mode=inspect-data", f"--config={tmp_path / 'config.py'}", f"--output={tmp_path}")
    assert "questions.json: there is no such file" in message
