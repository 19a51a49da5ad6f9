"""Table of the kinds of findings of a scan: level, text and advice."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = {
    "error": "results would be wrong, or a comparison would fail",
    "warning": "a person should check",
    "note": "handled automatically",
}


@dataclass(frozen=True, kw_only=True)
class FindingKind:
    """Level and texts of all findings of one kind."""

    level: str  # one of LEVELS
    one: str  # text after the number 1
    many: str  # text after any other number
    advice: str  # meaning and next step
    sign: str = ":"  # between the parts of a case: "=" copies, "≈" near duplicates, ":" path and remark


KINDS = {
    "same file under two grades": FindingKind(
        level="error",
        one="file appears under two grades",
        many="files appear under two grades",
        advice="One grade is wrong: delete that copy. Until then a comparison excludes all copies.",
        sign="=",
    ),
    "near duplicates under two grades": FindingKind(
        level="error",
        one="image appears under two grades, in files that differ slightly",
        many="images appear under two grades, in files that differ slightly",
        advice="Check them. If they show the same image, delete those under the wrong grade.",
        sign="≈",
    ),
    "same file in two splits": FindingKind(
        level="error",
        one="file appears in two splits",
        many="files appear in two splits",
        advice="Delete the copy in train, because it would make the test too easy. A comparison excludes it.",
        sign="=",
    ),
    "near duplicates in two splits": FindingKind(
        level="error",
        one="image appears in two splits, in files that differ slightly",
        many="images appear in two splits, in files that differ slightly",
        advice="Check them. If they show the same image, delete it from train. A comparison excludes it.",
        sign="≈",
    ),
    "no picture": FindingKind(
        level="error",
        one="file, which is not a readable image",
        many="files, none of which is a readable image",
        advice="The reasons are listed below.",
    ),
    "skipped": FindingKind(
        level="warning",
        one="file will be skipped",
        many="files will be skipped",
        advice="Repair, convert or remove them. Extraction lists them again and skips them.",
    ),
    "outside": FindingKind(
        level="warning",
        one="file is in no class folder and will not be used",
        many="files are in no class folder and will not be used",
        advice="If it is an image, move it into a class folder.",
    ),
    "copies in test": FindingKind(
        level="warning",
        one="file appears more than once in test",
        many="files appear more than once in test",
        advice="Each copy counts in the metrics. Keep one.",
        sign="=",
    ),
    "copies": FindingKind(
        level="note",
        one="file appears more than once under one grade",
        many="files appear more than once under one grade",
        advice="Each is used once for fitting.",
        sign="=",
    ),
    "near duplicates": FindingKind(
        level="note",
        one="image appears in several files that differ slightly",
        many="images appear in several files that differ slightly",
        advice="They are kept in the same fold.",
        sign="≈",
    ),
    "ungraded copies": FindingKind(
        level="note",
        one="ungraded file has a copy elsewhere",
        many="ungraded files have copies elsewhere",
        advice="A copy under a grade shows which grade to expect.",
        sign="=",
    ),
    "ungraded near duplicates": FindingKind(
        level="note",
        one="ungraded image has a near duplicate elsewhere",
        many="ungraded images have near duplicates elsewhere",
        advice="A near duplicate under a grade shows which grade to expect.",
        sign="≈",
    ),
    "rotated": FindingKind(
        level="note",
        one="image is stored rotated or mirrored, according to its EXIF data",
        many="images are stored rotated or mirrored, according to their EXIF data",
        advice="They are turned upright when they are read.",
    ),
    "misnamed": FindingKind(
        level="note",
        one="file has a different format than its name suggests",
        many="files have different formats than their names suggest",
        advice="They are read anyway: the content decides.",
    ),
    "colour": FindingKind(
        level="note",
        one="image is in CMYK or Lab or has more than 8 bits per channel",
        many="images are in CMYK or Lab or have more than 8 bits per channel",
        advice="They are converted to 8-bit RGB without colour profiles. Check one if colour matters.",
    ),
    "small pictures": FindingKind(
        level="note",
        one="image has a side that is shorter than the input of most networks",
        many="images have a side that is shorter than the input of most networks",
        advice="They are enlarged when they are read.",
    ),
}
