"""What a training costs: seconds, floating-point operations, peak memory and energy.

`meter` measures and adds up; `hlo` counts operations in a program's text, `memory` and `energy` read what
the machine counts, and `backend` is all that a backend must be asked for. What cannot be measured is None.
"""

from bpfree.costs.meter import Account, Costs, Meter, Reading, RunningAccount

__all__ = ["Account", "Costs", "Meter", "Reading", "RunningAccount"]
