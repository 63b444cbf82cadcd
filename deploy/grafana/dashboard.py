"""Makes the Grafana dashboard of the chart out of the rows of panels beside this file.

`python deploy/grafana/dashboard.py` writes it, as JSON for Grafana 11.
"""

import json
import re
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders import common as options
from grafana_foundation_sdk.builders import dashboard as parts
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DataSourceRef,
    DynamicConfigValue,
    Threshold,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
    VariableSort,
)

from deploy.grafana.control_panels import CONTROL
from deploy.grafana.job_panels import JOB
from deploy.grafana.panels import Panel
from deploy.grafana.queue_panels import QUEUE

OUTPUT = Path(__file__).resolve().parents[2] / "helm" / "strata" / "dashboards" / "strata.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
ROWS = {"Queue": QUEUE, "Control plane": CONTROL, "Job": JOB}
STAT_HEIGHT, CHART_HEIGHT = 4, 8  # of Grafana's grid, 30 pixels each
NAMED = 'strata_job_info{name=~"$name"}'
CHOSEN = 'job="$service"'  # Prometheus' own label: the name of what it scrapes
FILL_PERCENT = 30  # of stacked areas: their order shows, and so does the grid behind them


def build() -> Dashboard:
    """Return the whole dashboard; the same one every time."""
    dashboard = (
        parts.Dashboard("Strata")
        .uid("strata")
        .description("The queue, the control plane, and one job.")
        .tags(["strata"])
        .timezone("browser")
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .variables([_datasource(), _service(), _name(), _job()])
    )
    ids = count(1)
    for title, panels in ROWS.items():
        dashboard.with_row(parts.Row(title).id(next(ids)))
        for panel in panels:
            made = _stat(panel) if panel.is_stat else _chart(panel)
            dashboard.with_panel(made.id(next(ids)))
    return dashboard.build()


def queries() -> list[tuple[str, str]]:
    """Return every query as (title of its panel, PromQL with Grafana's variables in it)."""
    return [
        (panel.title, of_service(expression))
        for panels in ROWS.values()
        for panel in panels
        for expression in panel.queries.values()
    ]


def of_service(expression: str) -> str:
    """Return the query for the chosen service alone: one Prometheus may ask several."""
    return re.sub(r"\b(strata_\w+)(?:{(.+?)})?", _choose, expression)


def _choose(metric: re.Match[str]) -> str:
    name, matchers = metric.groups()
    return f"{name}{{{', '.join(filter(None, (matchers, CHOSEN)))}}}"


def text() -> str:
    """Return the JSON that Grafana reads."""
    return json.dumps(build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _datasource() -> parts.DatasourceVariable:
    return parts.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def _service() -> parts.QueryVariable:
    return (
        parts.QueryVariable("service")
        .label("Service")
        .datasource(SOURCE)
        .query("label_values(strata_controller_leader, job)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )


def _name() -> parts.QueryVariable:
    """Return the variable that narrows the jobs down; people know names, and not ids."""
    return (
        parts.QueryVariable("name")
        .label("Name")
        .datasource(SOURCE)
        .query(f"label_values({of_service('strata_job_info')}, name)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .include_all(True)
        .all_value(".*")
    )


def _job() -> parts.QueryVariable:
    """Return the variable of the job's row; ids sort by time, so the newest job comes first."""
    return (
        parts.QueryVariable("job")
        .label("Job")
        .datasource(SOURCE)
        .query(f"label_values({of_service(NAMED)}, job_id)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_DESC)
    )


def _stat(panel: Panel) -> stat.Panel:
    """Return a panel of the last value in large letters."""
    shown = common.BigValueTextMode
    texts: dict[str, ValueMappingResult] = {
        value: ValueMappingResult(text=word) for value, word in panel.texts.items()
    }
    made = (
        stat.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .span(panel.width)
        .height(STAT_HEIGHT)
        .unit(panel.unit)
        .no_value(panel.empty)
        .thresholds(_thresholds(panel))
        .text_mode(shown.NAME if panel.shows_name else shown.AUTO)
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE)
        .reduce_options(options.ReduceDataOptions().calcs(["lastNotNull"]))
        .targets(_targets(panel))
    )
    return made.mappings([ValueMap(texts)]) if texts else made


def _chart(panel: Panel) -> timeseries.Panel:
    """Return a panel of curves over time."""
    stacking, line = common.StackingMode, common.LineInterpolation
    limits = common.GraphThresholdsStyleMode
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .span(panel.width)
        .height(CHART_HEIGHT)
        .unit(panel.unit)
        .no_value(panel.empty)
        .thresholds(_thresholds(panel))
        .thresholds_style(
            options.GraphThresholdsStyleConfig().mode(limits.DASHED if panel.steps else limits.OFF)
        )
        .stacking(
            options.StackingConfig().mode(stacking.NORMAL if panel.is_stacked else stacking.NONE)
        )
        .fill_opacity(FILL_PERCENT if panel.is_stacked else 0)
        .scale_distribution(_scale(panel))
        .line_interpolation(line.STEP_AFTER if panel.is_stepped else line.LINEAR)
        .legend(
            options.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull"])
        )
        .tooltip(
            options.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
        .targets(_targets(panel))
    )
    for series, colour in panel.colours.items():
        fixed = DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})
        made.override_by_name(series, [fixed])
    return made


def _scale(panel: Panel) -> options.ScaleDistributionConfig:
    scale, kinds = options.ScaleDistributionConfig(), common.ScaleDistribution
    return scale.type(kinds.LOG).log(10) if panel.is_logarithmic else scale.type(kinds.LINEAR)


def _thresholds(panel: Panel) -> parts.ThresholdsConfig:
    first = Threshold(value=None, color=panel.start)  # from minus infinity
    later = [Threshold(value=value, color=colour) for value, colour in panel.steps]
    return parts.ThresholdsConfig().steps([first, *later])


def _targets(panel: Panel) -> list[Builder[variants.Dataquery]]:
    """Return the panel's queries; what a stat shows is so now, unless it keeps the last value."""
    is_now = panel.is_stat and not panel.keeps_last
    targets: list[Builder[variants.Dataquery]] = []
    for letter, (legend, expression) in zip("ABCDEF", panel.queries.items(), strict=False):
        target = prometheus.Dataquery().expr(of_service(expression))
        target.legend_format(legend).ref_id(letter).datasource(SOURCE)
        targets.append(target.instant() if is_now else target.range())
    return targets


if __name__ == "__main__":
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(text(), encoding="utf-8")
