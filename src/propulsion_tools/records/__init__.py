"""What goes into a run and what comes out of it, and the options of every command; standard library only."""

from propulsion_tools.records.fields import refuse_unknown
from propulsion_tools.records.files import (
    atomic,
    files_aside,
    is_stream,
    model_slug,
    remove_leftovers,
    slug,
    write_atomically,
    written,
)
from propulsion_tools.records.json_values import check_types, to_json
from propulsion_tools.records.run_record import PREDICTIONS_FILE, RECORD_FILE, SCHEMA_VERSION, RunRecord
from propulsion_tools.records.run_spec import RUN_FACTS, RunSpec

__all__ = [
    "PREDICTIONS_FILE",
    "RECORD_FILE",
    "RUN_FACTS",
    "SCHEMA_VERSION",
    "RunRecord",
    "RunSpec",
    "atomic",
    "check_types",
    "files_aside",
    "is_stream",
    "model_slug",
    "refuse_unknown",
    "remove_leftovers",
    "slug",
    "to_json",
    "write_atomically",
    "written",
]
