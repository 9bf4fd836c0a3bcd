"""The data: every source that the run reads is opened, and its first examples are made as training makes them."""

import dataclasses
import time
from collections.abc import Iterator

from dualdiff_jax.config import RunConfig, SourceConfig
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.previews import preview_tests
from dualdiff_jax.evaluation.task_scores import opened_task
from dualdiff_jax.inspection.survey import survey
from dualdiff_jax.readiness.finding import Finding, attempt, faulty

EXAMPLES = 8  # of each source


def data_findings(config: RunConfig, tokenizer: Tokenizer | None) -> Iterator[Finding]:
    """Every source of the streams that have weight, sources and tasks of a validation, and what previews need.

    Args:
        config: the run's.
        tokenizer: of its data; None where it cannot be read, and then no example is made.
    """
    config = _without_bad_cache(config)
    validated = config.validation.sources if config.validation.every else ()
    for group, sources in (("data", config.read_sources), ("validation data", validated)):
        for source in sources:
            try:
                yield _source(f"{group}: {source.name}", source, config, tokenizer)
            except (UserError, OSError) as error:
                yield faulty(f"{group}: {source.name}", error)
    for task in config.validation.tasks if config.validation.tasks_every else ():
        try:
            opened = opened_task(task, config)
            asked = f"{len(opened.chosen.ids)} of {len(opened.questions)} questions are asked"
            yield Finding(f"validation task: {task.name}", f"{task.root}: {asked}")
        except (UserError, OSError) as error:
            yield faulty(f"validation task: {task.name}", error)
    if config.preview.every:
        for what, test in preview_tests(config.preview, config.model, tokenizer).items():
            yield attempt(what, test)


def _without_bad_cache(config: RunConfig) -> RunConfig:
    """``config`` without a ``data.local_cache`` that cannot be used, which ``folder_findings`` reports once."""
    try:
        IndexCache.of(config.data)
    except UserError:
        return dataclasses.replace(config, data=dataclasses.replace(config.data, local_cache=""))
    return config


def _source(what: str, source: SourceConfig, config: RunConfig, tokenizer: Tokenizer | None) -> Finding:
    begin = time.perf_counter()
    where = ", ".join(dict.fromkeys(root.root for root in (source, *source.roots)))
    if tokenizer is None:
        count = len(open_source(source, IndexCache.of(config.data)))
        found = f"{where}: {count} records; no example is made without a tokenizer"
        return Finding(what, found, "warning", "repair data.tokenizer, and check again")
    looked = survey(source, config.data, tokenizer, EXAMPLES)
    seconds = time.perf_counter() - begin
    found = f"{where}: {looked.records} records, {looked.good} of {looked.looked_at} tried made in {seconds:.2f} s"
    if not looked.messages and looked.records and not looked.good:
        return Finding(what, found, "warning", "none of these passes the source's filters; widen them")
    if not looked.messages:
        return Finding(what, found)
    bad = f"{found}; {looked.bad.total()} are bad: {looked.messages[0]}"
    advice = "repair the records, or see all of them with --mode=inspect-data"
    return Finding(what, bad, "warning" if looked.good else "fault", advice)
