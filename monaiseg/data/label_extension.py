"""Label tables in a NIfTI header extension, in Connectome Workbench's format."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from monaiseg.data.labels import OPAQUE, LabelTable
from monaiseg.errors import DataError

OURS = {
    "partner": "Partner",
    "group": "Group",
    "tolerance_mm": "ToleranceMm",
    "lesion": "Lesion",
    "snomed": "Snomed",
}
"""Keys of a label's record -> attributes that Workbench does not know and leaves alone."""


def table_xml(table: LabelTable) -> bytes:
    """Label table in the XML that Connectome Workbench writes to volumes, plus what it has no attributes for."""
    root = ET.Element("CaretExtension")
    volume = ET.SubElement(root, "VolumeInformation", Index="0")
    rows = ET.SubElement(volume, "LabelTable")
    for label in table.labels:
        levels = (*label.color, label.alpha if label.value else 0)
        channels = zip(("Red", "Green", "Blue", "Alpha"), levels, strict=True)
        colors = {name: repr(level / OPAQUE) for name, level in channels}
        row = ET.SubElement(rows, "Label", {"Key": str(label.value), **colors})
        record = label.to_record()
        for key, attribute in OURS.items():
            if record.get(key) is not None:
                row.set(attribute, str(record[key]))
        row.text = "".join(letter if letter.isprintable() else " " for letter in label.name)
    ET.SubElement(volume, "StudyMetaDataLinkSet")
    ET.SubElement(volume, "VolumeType").text = "Label"
    return bytes(ET.tostring(root, encoding="UTF-8", xml_declaration=True))


def parse_table(content: bytes) -> LabelTable:
    """The label table in a header extension.

    Raises:
        DataError: the extension is not well-formed or declares XML entities.
    """
    if b"<!" in content.replace(b"<![CDATA[", b"").replace(b"<!--", b""):
        raise DataError("its label table declares XML entities; write the file again without them")
    try:
        rows = ET.fromstring(content).iter("Label")  # noqa: S314  no entities, see above
        return LabelTable.from_records([_record(row) for row in rows])
    except (
        ET.ParseError,
        LookupError,
        ValueError,
        OverflowError,
    ) as error:  # LookupError: unknown encoding
        raise DataError(
            f"its label table cannot be read ({error}); write the file again"
        ) from error


def _record(row: ET.Element) -> dict[str, object]:
    red, green, blue, alpha = (
        round(OPAQUE * float(row.get(channel, default)))
        for channel, default in (("Red", "0"), ("Green", "0"), ("Blue", "0"), ("Alpha", "1"))
    )
    value = int(row.attrib["Key"])
    record: dict[str, object] = {key: row.get(attribute) for key, attribute in OURS.items()}
    record |= {"value": value, "name": (row.text or "").strip(), "color": [red, green, blue]}
    return record | ({"alpha": alpha} if value else {})
