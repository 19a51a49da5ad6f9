"""What an intake may find, in words: how bad it is, what it means, what to do. A table of data."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = {
    "error": "results would be wrong, or a comparison would refuse",
    "warning": "a person should look",
    "note": "handled; worth knowing",
}


@dataclass(frozen=True, kw_only=True)
class FindingKind:
    """What a finding of one kind says, whatever the data set."""

    level: str  # one of LEVELS
    one: str  # "file stands under two grades", after "1"
    many: str  # after any other number
    advice: str  # what it means and what to do
    sign: str = ":"  # between the parts of a case: "=" same file, "≈" near duplicates, ":" a remark on a path


KINDS = {
    "same file under two grades": FindingKind(
        level="error",
        one="file stands under two grades",
        many="files stand under two grades",
        advice="One grade is wrong: delete that copy. Until then a comparison leaves out all of them.",
        sign="=",
    ),
    "near duplicates under two grades": FindingKind(
        level="error",
        one="picture stands under two grades, in files that differ slightly",
        many="pictures stand under two grades, in files that differ slightly",
        advice="Look at them. If they are the same picture, delete those under the wrong grade.",
        sign="≈",
    ),
    "same file in two splits": FindingKind(
        level="error",
        one="file stands in two splits",
        many="files stand in two splits",
        advice="Delete the copy in train: it would make the test too easy. A comparison leaves it out.",
        sign="=",
    ),
    "near duplicates in two splits": FindingKind(
        level="error",
        one="picture stands in two splits, in files that differ slightly",
        many="pictures stand in two splits, in files that differ slightly",
        advice="Look at them. If it is the same picture, delete it from train; a comparison leaves it out.",
        sign="≈",
    ),
    "no picture": FindingKind(
        level="error",
        one="file, and it is no picture that can be read",
        many="files, and none is a picture that can be read",
        advice="The reasons stand below.",
    ),
    "skipped": FindingKind(
        level="warning",
        one="file will be skipped",
        many="files will be skipped",
        advice="Repair, convert or remove them; an extraction names them again and goes on without them.",
    ),
    "outside": FindingKind(
        level="warning",
        one="file lies in no class folder and will not be used",
        many="files lie in no class folder and will not be used",
        advice="If it is a picture, move it into a class folder.",
    ),
    "copies in test": FindingKind(
        level="warning",
        one="file appears more than once in test",
        many="files appear more than once in test",
        advice="Each copy counts in the figures. Keep one.",
        sign="=",
    ),
    "copies": FindingKind(
        level="note",
        one="file appears more than once under one grade",
        many="files appear more than once under one grade",
        advice="Each is fitted on once.",
        sign="=",
    ),
    "near duplicates": FindingKind(
        level="note",
        one="picture appears in several files that differ slightly",
        many="pictures appear in several files that differ slightly",
        advice="No fold separates them.",
        sign="≈",
    ),
    "ungraded copies": FindingKind(
        level="note",
        one="ungraded file appears elsewhere too",
        many="ungraded files appear elsewhere too",
        advice="A copy under a grade says which grade to expect.",
        sign="=",
    ),
    "ungraded near duplicates": FindingKind(
        level="note",
        one="ungraded picture appears elsewhere too, in a file that differs slightly",
        many="ungraded pictures appear elsewhere too, in files that differ slightly",
        advice="A twin under a grade says which grade to expect.",
        sign="≈",
    ),
    "rotated": FindingKind(
        level="note",
        one="picture lies on a side or is mirrored, as its EXIF says",
        many="pictures lie on a side or are mirrored, as their EXIF says",
        advice="Turned upright when read.",
    ),
    "misnamed": FindingKind(
        level="note",
        one="file is of another format than its name says",
        many="files are of another format than their names say",
        advice="Read all the same: the content decides.",
    ),
    "colour": FindingKind(
        level="note",
        one="picture is in CMYK, Lab or more than 8 bits",
        many="pictures are in CMYK, Lab or more than 8 bits",
        advice="Brought to 8-bit RGB, colour profiles left aside; look at one if colour matters.",
    ),
    "small pictures": FindingKind(
        level="note",
        one="picture has a side shorter than most networks' input",
        many="pictures have a side shorter than most networks' input",
        advice="Enlarged when read.",
    ),
}
