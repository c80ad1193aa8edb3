"""What `client.py` shows instead of joining a run: a CSV, an egress ledger or a privacy budget."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federated_health import privacy
from federated_health.cli.console import print_lines
from federated_health.cli.output import check_output
from federated_health.cli.tables import print_figures
from federated_health.data.data_check import DataCheck, check_data
from federated_health.data.data_check_page import DataCheckPage
from federated_health.data.hospital import split_hospital
from federated_health.data.manifest import OwnHospital
from federated_health.data.tasks import Task
from federated_health.errors import SettingsError
from federated_health.hospital import egress_page, ledger_page
from federated_health.hospital.expected_releases import ExpectedReleases


def show_egress(path: Path, page: Path | None = None) -> None:
    """Show what a hospital sent, from its egress ledger.

    Args:
        page: HTML file for the data protection officer; None for none.
    """
    if page is not None and page.suffix != ".html":
        raise SettingsError(f"--page: expected a file that ends with .html, got {page}")
    summary = ledger_page.summarise(path)
    print_lines(summary.title, summary.lines())
    print_figures("Messages", summary.messages())
    for name, total in summary.ordered_releases().items():
        words = [ledger_page.explain(name), *total.list_suppressed()]
        print_figures(f"{name}: {total}", total.table(), lead=words)
    print_lines("What never leaves:", ledger_page.NEVER)
    if page is not None:
        egress_page.write_egress_page(page, summary)
        print_lines(f"written: {page}", [])
    check_output()


def show_privacy(path: Path) -> None:
    """Show the epsilon that a hospital spent, from its privacy account."""
    _print_page(privacy.load_page().read_page(path))
    check_output()


def show_data(path: Path, task: Task, mapping: Path | None = None) -> DataCheck:
    """Show what is in a hospital's CSV; DataError if the hospital cannot join."""
    check = check_data(path, task, mapping)
    page = DataCheckPage(check)
    print_figures(page.title, page.table())
    print_lines(page.verdict, page.findings())
    check.raise_obstacle()
    check_output()
    return check


def show_hospital(own: OwnHospital, config: Mapping[str, Any]) -> None:
    """Show what is in a hospital's CSV, and what would leave it; DataError if the hospital cannot join.

    Args:
        config: the hospital's node config.
    """
    check = show_data(own.data, own.task, own.mapping)
    expected = ExpectedReleases(split_hospital(check, own.name, int(config["split-seed"])), own.data, config)
    print_lines("\nWhat would leave, in a run with the server's default settings:", expected.releases())
    print_lines("\nAbout these releases:", expected.remarks())
    check_output()


def _print_page(page: Any) -> None:
    """Print a page's lines, then its tables."""
    print_lines(page.title, page.lines())
    for title, table in page.tables().items():
        print_figures(title, table)
