"""What a panel of the dashboard is, and the words that its queries are made of.

Three things hold for every query:

* The fleet's gauges come from the leader alone, but for a moment after a change of leader two
  servers may show them: `max by` first, and only then `sum`.
* What each server counts itself is summed up over the servers.
* What is missing while all is quiet falls back to `QUIET`, and only that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

QUARTER, THIRD, SIXTH, EIGHTH = 6, 8, 4, 3  # of the 24 columns of Grafana's grid
# Jobs come by the hour: an interval of rates may have none, and its quantiles would be gaps.
JOBS_WINDOW = "1h"
RATE = "$__rate_interval"
QUIET = "0 * max(strata_controller_leader)"  # 0 while servers are scraped, nothing when they aren't
LONG_POLLS = ".*/(sync|events)"  # routes that answer late on purpose

GOOD, NEUTRAL, WARN, BAD = "green", "blue", "orange", "red"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel: a chart over time, or the last value in large letters."""

    title: str
    unit: str  # Grafana's id of it; "none" for what has no dimension
    description: str  # what it shows, and what to do about it
    queries: Mapping[str, str]  # expression by legend
    width: int = THIRD
    is_stat: bool = False
    shows_name: bool = False  # the legend instead of the value
    keeps_last: bool = False  # of the chosen range of time, though its series is over
    steps: tuple[tuple[float, str], ...] = ()  # from this value on, this colour
    start: str = GOOD  # the colour below the first step
    texts: Mapping[str, str] = field(default_factory=dict)  # word by value
    colours: Mapping[str, str] = field(default_factory=dict)  # colour by series
    is_stacked: bool = False
    is_stepped: bool = False
    is_logarithmic: bool = False
    empty: str = "no data"


def quantile(share: float, metric: str, by: str = "", window: str = RATE, where: str = "") -> str:
    """Return the query for a histogram's quantile over all servers, split `by` a label."""
    labels = f"le, {by}" if by else "le"
    return (
        f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{where}[{window}])))"
    )


def or_quiet(query: str, label: str, word: str) -> str:
    """Return `query`, or a zero with the label's value `word` where it finds no series at all."""
    return f'{query} or on() label_replace({QUIET}, "{label}", "{word}", "", "")'


def of_job(metric: str, by: str = "") -> str:
    """Return the query for a gauge of the chosen job, split `by` a label."""
    split = f" by ({by}) " if by else ""
    return f'max{split}({metric}{{job_id="$job"}})'


def rate_of_job(metric: str) -> str:
    """Return the query for the growth per second of a total of the chosen job."""
    return f'max(rate({metric}{{job_id="$job"}}[{RATE}]))'
