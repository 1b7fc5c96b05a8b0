"""Make the pictures of the manual from the running product: python docs/screenshots.py [FOLDER]."""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.stack import ADMIN_PASSWORD, running_stack

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
TYPED = ["cat /etc/os-release | head -4", "df -h / | tail -1", "uptime", "echo $((6*7))"]


def log_in(page: Page) -> None:
    page.goto("/login/")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(ADMIN_PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/fleet/**")


def take(page: Page, folder: Path) -> None:
    page.goto("/login/")
    page.get_by_label("Username").wait_for()
    page.wait_for_load_state("networkidle")
    page.screenshot(path=folder / "login.png")
    log_in(page)
    page.get_by_role("row").filter(has_text="pay-api-eu1a-01").get_by_text("Online").wait_for(timeout=60_000)
    page.screenshot(path=folder / "fleet.png")
    row = page.get_by_role("row").filter(has_text="pay-api-eu1a-01")
    row.get_by_role("button", name="Connect").click()
    page.wait_for_function("() => window.fleetopsTerminal && /[$#] $/.test(window.fleetopsTerminal.text())")
    for line in TYPED:
        page.keyboard.type(line + "\n")
        page.wait_for_timeout(400)
    page.screenshot(path=folder / "terminal.png")
    terminal = page.url
    page.keyboard.type("exit\n")
    page.get_by_text("This session has ended").first.wait_for()
    page.goto(terminal + "replay/")
    page.get_by_role("button", name="Play").first.click()
    page.wait_for_function("() => /^42$/m.test(window.fleetopsReplay.text())", timeout=30_000)
    page.screenshot(path=folder / "replay.png")
    page.goto("/audit/")
    page.screenshot(path=folder / "audit.png")
    page.goto("/sessions/")
    page.screenshot(path=folder / "sessions.png")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("images"))
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="fo-shots-") as home,
        running_stack(Path(home)) as stack,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(base_url=stack.url, viewport={"width": 1440, "height": 900})
        take(page, folder)
        browser.close()


if __name__ == "__main__":
    main()
