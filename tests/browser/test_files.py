"""A file goes to an instance from its terminal, with progress, and comes back the same."""

import hashlib
import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from .test_one_click_shell import wait_for_screen

pytestmark = pytest.mark.browser
MIB = 2**20
RULE = """
from fleetops.policy import services
services.create_rule(
    actor="test", name="Files", everybody=True, deeds=["transfer"], targets="all", confirmed=True
)
"""


def test_a_file_goes_up_from_a_terminal_and_comes_down_the_same(admin: Page, stack, tmp_path: Path):
    stack.manage("shell", "-c", RULE)
    data = os.urandom(2 * MIB)
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / "a file.bin").write_bytes(data)
    connect = admin.locator("button.fo-connect").first
    connect.wait_for(timeout=60_000)
    connect.click()
    admin.wait_for_url(re.compile(r"/sessions/[0-9a-f-]{36}/$"))
    wait_for_screen(admin, "demo node")
    admin.get_by_role("button", name="Files").click()
    panel = admin.get_by_role("region", name="Files")
    panel.locator("input[type=file]").set_input_files(tmp_path / "a file.bin")
    row = panel.get_by_role("list", name="Transfers of this page").get_by_role("listitem").first
    expect(row.get_by_role("progressbar")).to_be_visible(timeout=20_000)
    expect(row).to_contain_text(re.compile(r"[\d.]+ (bytes|[KM]B) of 2\.0 MB|Uploaded, 2\.0 MB"))
    expect(row).to_contain_text(f"Uploaded, 2.0 MB, SHA-256 {digest}", timeout=60_000)
    expect(row).to_have_class("is-done")
    panel.locator("input[type=file]").set_input_files(tmp_path / "a file.bin")
    expect(panel.get_by_role("listitem").first).to_contain_text("There is a file of that name already", timeout=20_000)
    panel.get_by_role("button", name="Close (Esc)").click()
    admin.keyboard.type("sha256sum 'a file.bin'\n")
    wait_for_screen(admin, digest[:20])

    admin.get_by_role("button", name="Files").click()
    panel.get_by_label("Download from path").fill("a file.bin")
    with admin.expect_download(timeout=60_000) as coming:
        panel.get_by_role("button", name="Download").click()
    assert coming.value.suggested_filename == "a file.bin"
    assert Path(coming.value.path()).read_bytes() == data
    shell = admin.url

    admin.goto(f"{shell}replay/")
    files = admin.get_by_role("region", name="Files that went along")
    expect(files.get_by_role("row")).to_have_count(4)
    expect(files).to_contain_text(digest[:12])
