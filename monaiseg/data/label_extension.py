"""Label tables in a NIfTI header extension, in Connectome Workbench's format."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from monaiseg.data.labels import Label, LabelTable
from monaiseg.errors import DataError


def table_xml(table: LabelTable) -> bytes:
    """Label table in the XML that Connectome Workbench writes to volumes, plus the partner's value."""
    root = ET.Element("CaretExtension")
    volume = ET.SubElement(root, "VolumeInformation", Index="0")
    rows = ET.SubElement(volume, "LabelTable")
    for label in table.labels:
        channels = zip(("Red", "Green", "Blue"), label.color, strict=True)
        row = ET.SubElement(
            rows,
            "Label",
            {"Key": str(label.value), **{name: repr(level / 255) for name, level in channels}},
            Alpha="1" if label.value else "0",
        )
        if label.partner is not None:
            row.set("Partner", str(label.partner))
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
        labels = {}
        for row in rows:
            red, green, blue = (
                round(255 * float(row.get(c, "0"))) for c in ("Red", "Green", "Blue")
            )
            partner = row.get("Partner")
            value = int(row.attrib["Key"])
            labels[value] = Label(
                value,
                (row.text or "").strip(),
                (red, green, blue),
                None if partner is None else int(partner),
            )
    except (
        ET.ParseError,
        LookupError,
        ValueError,
        OverflowError,
    ) as error:  # LookupError: unknown encoding
        raise DataError(
            f"its label table cannot be read ({error}); write the file again"
        ) from error
    labels.setdefault(0, Label(0, "background"))
    return LabelTable(tuple(labels[value] for value in sorted(labels)))
