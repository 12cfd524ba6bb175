"""TensorBoard's HParams tab, read back with the backend of the plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

STATUS = {value: name for name, value in api_pb2.Status.items()}


class Tab:
    """The HParams tab of a folder: columns, and by run the hyperparameters, metrics and status."""

    def __init__(self, folder: Path) -> None:
        self._events = EventMultiplexer().AddRunsFromDirectory(str(folder))
        self._events.Reload()
        provider = MultiplexerDataProvider(self._events, str(folder))
        context = backend_context.Context(TBContext(data_provider=provider))
        metadata = context.hparams_metadata(RequestContext(), "")
        experiment = context.experiment_from_metadata(RequestContext(), "", True, metadata, None)
        self.columns = {info.name: info.type for info in experiment.hparam_infos}
        self.metrics = [info.name.tag for info in experiment.metric_infos]
        self.runs_with_columns = [run for run, tags in metadata.items() if "_hparams_/experiment" in tags]
        request = api_pb2.ListSessionGroupsRequest(
            start_index=0, slice_size=100, allowed_statuses=list(STATUS), include_metrics=True
        )
        handler = list_session_groups.Handler(RequestContext(), context, "", request)
        self.hparams: dict[str, dict[str, Any]] = {}
        self.values: dict[str, dict[str, float]] = {}
        self.status: dict[str, str] = {}
        for group in handler.run().session_groups:
            self.hparams[group.name] = {k: getattr(v, v.WhichOneof("kind")) for k, v in dict(group.hparams).items()}
            self.values[group.name] = {value.name.tag: value.value for value in group.metric_values}
            self.status[group.name] = STATUS[group.sessions[0].status]

    def scalars(self, run: str) -> dict[str, list[float]]:
        """Every scalar of a run."""
        events = self._events.GetAccumulator(run)
        tags = [tag for tag in events.Tags()["tensors"] if self._plugin(events, tag) == "scalars"]
        return {tag: [float(event.tensor_proto.float_val[0]) for event in events.Tensors(tag)] for tag in tags}

    @staticmethod
    def _plugin(events: Any, tag: str) -> Any:
        return events.SummaryMetadata(tag).plugin_data.plugin_name
