"""What TensorBoard's HParams dashboard is told, without TensorFlow: space, metrics, sessions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

SUCCESS, FAILURE = api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE
_TYPES = {
    bool: api_pb2.DATA_TYPE_BOOL,
    int: api_pb2.DATA_TYPE_FLOAT64,
    float: api_pb2.DATA_TYPE_FLOAT64,
}


def experiment(domains: Mapping[str, Sequence], metrics: Mapping[str, str]) -> Summary:
    """Declares a sweep: the columns and axes of the dashboard.

    Args:
        domains: the values of every hyperparameter by its name.
        metrics: the display name of every scalar by its tag; the first is the most prominent.
    """
    content = api_pb2.Experiment(
        hparam_infos=[_parameter(name, values) for name, values in domains.items()],
        metric_infos=[_metric(tag, shown) for tag, shown in metrics.items()],
        time_created_secs=time.time(),
    )
    return _summary(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=content))


def session_start(values: Mapping[str, Any], group: str) -> Summary:
    """Begins the session of a run.

    Args:
        values: its hyperparameters.
        group: what the sessions that differ in their seed alone have in common.
    """
    return hparams_pb(dict(values), trial_id=group)


def session_end(status: int) -> Summary:
    """Ends the session of a run, with `SUCCESS` or `FAILURE`."""
    # TensorBoard's own function is in a module that imports TensorFlow.
    content = SessionEndInfo(status=status, end_time_secs=time.time())
    return _summary(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=content))


def _parameter(name: str, values: Iterable) -> api_pb2.HParamInfo:
    distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    kinds = {_TYPES.get(type(value), api_pb2.DATA_TYPE_STRING) for value in distinct}
    kind = kinds.pop() if len(kinds) == 1 else api_pb2.DATA_TYPE_STRING
    info = api_pb2.HParamInfo(name=name, type=kind, differs=len(distinct) > 1)
    info.domain_discrete.extend(distinct)
    return info


def _metric(tag: str, shown: str) -> api_pb2.MetricInfo:
    held_out = shown.startswith("val_") or tag.startswith("val_")
    kind = api_pb2.DATASET_VALIDATION if held_out else api_pb2.DATASET_TRAINING
    return api_pb2.MetricInfo(
        name=api_pb2.MetricName(tag=tag), display_name=shown, dataset_type=kind
    )


def _summary(tag: str, content: HParamsPluginData) -> Summary:
    described = metadata.create_summary_metadata(content)
    value = Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])
