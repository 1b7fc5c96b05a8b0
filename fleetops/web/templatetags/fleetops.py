"""Tags and filters that every template has."""

from datetime import UTC, datetime, timedelta

from django import template
from django.templatetags.static import static
from django.utils.html import format_html

from fleetops.clock import now

register = template.Library()

# A state's kind → its icon: one word, one glyph, one colour.
GLYPHS = {
    "ok": "circle-check",
    "run": "loader",
    "warn": "alert-triangle",
    "bad": "circle-x",
    "hold": "hand",
    "wait": "circle-dashed",
    "off": "circle-off",
}


@register.simple_tag
def icon(name: str, classes: str = "") -> str:
    """One icon of the sprite; for the eye alone, a word stands beside it."""
    return format_html(
        '<svg class="icon{}" aria-hidden="true"><use href="{}#i-{}"/></svg>',
        f" {classes}" if classes else "",
        static("icons.svg"),
        name,
    )


@register.simple_tag
def status(kind: str, word: str) -> str:
    """A state in a row: glyph and word. `kind` is a key of GLYPHS."""
    turning = "fo-spin" if kind == "run" else ""
    return format_html('<span class="status status-{}">{}{}</span>', kind, icon(GLYPHS[kind], turning), word)


@register.simple_tag
def badge(kind: str, word: str) -> str:
    """The state of a page's subject, beside its title."""
    return format_html('<span class="badge bg-{}">{}{}</span>', kind, icon(GLYPHS[kind]), word)


@register.simple_tag
def today() -> str:
    """2026-11-19; UTC."""
    return f"{now():%Y-%m-%d}"


@register.filter
def clock_time(moment: datetime | None) -> str:
    """14:24:02 today, 19 Nov, 16:31 this year, else 19 Nov 2025, 16:31; UTC."""
    if moment is None:
        return ""
    moment, today = moment.astimezone(UTC), now()
    if moment.date() == today.date():
        return f"{moment:%H:%M:%S}"
    if moment.year == today.year:
        return f"{moment.day} {moment:%b, %H:%M}"
    return f"{moment.day} {moment:%b %Y, %H:%M}"


@register.filter
def when(moment: datetime | None) -> str:
    """The moment as a <time>, short, with the whole of it as its title."""
    if moment is None:
        return ""
    whole = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return format_html('<time datetime="{}" title="{}" class="tnum">{}</time>', whole, whole, clock_time(moment))


def age_text(length: timedelta) -> str:
    """12 s, 4 min, 3 h, 2 d."""
    seconds = max(int(length.total_seconds()), 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


@register.filter
def age(moment: datetime | None) -> str:
    """How long ago, up to an hour ("12 s ago"), then the moment itself; as a <time>."""
    if moment is None:
        return ""
    past = now() - moment
    text = f"{age_text(past)} ago" if past < timedelta(hours=1) else clock_time(moment)
    whole = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return format_html('<time datetime="{}" title="{}" class="tnum">{}</time>', whole, whole, text)


@register.filter
def duration(length: timedelta | float | int | None) -> str:
    """3 s, 4 min 12 s, 2 h 5 min."""
    if length is None:
        return ""
    seconds = int(length.total_seconds() if isinstance(length, timedelta) else length)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


@register.filter
def short_id(value: str) -> str:
    """i-0c41d88e5f7a2b309 → i-0c41…b309, whole in its title."""
    text = str(value)
    if len(text) <= 14:
        return format_html('<span class="fo-id">{}</span>', text)
    return format_html('<span class="fo-id" title="{}">{}…{}</span>', text, text[:6], text[-4:])
