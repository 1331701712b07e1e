"""Tables and figures of an experiment, from its files alone: finished, running or crashed."""

from importlib import import_module

_HOMES = {
    "compare": "comparison",
    "results": "frames",
    "histories": "frames",
    "leaderboard": "ranking",
    "pareto_front": "pareto",
    "plot_alignment": "plots",
    "plot_costs": "plots",
    "plot_filters": "samples",
    "plot_histories": "plots",
    "plot_information_plane": "plots",
    "plot_learning_rates": "plots",
    "plot_probes": "plots",
    "plot_reconstructions": "samples",
    "plot_samples": "samples",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    """Imports on first use: pandas and Matplotlib are loaded only by what needs them."""
    if name in _HOMES:
        return getattr(import_module(f"bpfree.reporting.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'bpfree.reporting' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
