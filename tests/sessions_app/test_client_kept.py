"""What is kept of a client outlives its process, and a torn page is none."""

from sessions_app.frontdoor.kept import Kept, KeptFile, Place


def test_a_page_comes_back_as_it_was_written(tmp_path):
    kept = Kept("abc", True, 17, 16, [Place(3, 400), Place(9, 800, 11, "12 MB not shown")], 1, 2, 3)
    file = KeptFile(tmp_path)
    assert file.read() == Kept()
    file.write(kept)
    file.write(kept)
    assert KeptFile(tmp_path).read() == kept
    assert (tmp_path / "client").stat().st_size == 4096


def test_a_page_that_is_not_whole_counts_as_none(tmp_path):
    file = KeptFile(tmp_path)
    file.write(Kept("abc", False, 5))
    torn = bytearray((tmp_path / "client").read_bytes())
    torn[20] ^= 1
    (tmp_path / "client").write_bytes(torn)
    assert file.read() == Kept()
