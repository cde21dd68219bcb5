"""Sides: which labels change places in a left-right mirror image."""

from __future__ import annotations

import pytest

from monaiseg.data.label_files import load_label_table
from monaiseg.data.labels import LabelTable
from monaiseg.data.sides import has_side, partners
from monaiseg.errors import SettingsError

PAIRS = {
    "FreeSurfer": [
        ("Left-Cerebral-White-Matter", "Right-Cerebral-White-Matter"),
        ("ctx-lh-bankssts", "ctx-rh-bankssts"),
        ("Left-Inf-Lat-Vent", "Right-Inf-Lat-Vent"),
        ("wm_lh_S_front_inf", "wm_rh_S_front_inf"),
        ("lh.cuneus", "rh.cuneus"),
    ],
    "LPBA40": [
        ("L superior frontal gyrus", "R superior frontal gyrus"),
        ("L_hippocampus", "R_hippocampus"),
        ("superior_frontal_gyrus_L", "superior_frontal_gyrus_R"),
    ],
    "TotalSegmentator": [
        ("kidney_left", "kidney_right"),
        ("lung_upper_lobe_left", "lung_upper_lobe_right"),
        ("rib_left_1", "rib_right_1"),
    ],
    "Neuromorphometrics": [
        ("Left Accumbens Area", "Right Accumbens Area"),
        ("Left ACgG anterior cingulate gyrus", "Right ACgG anterior cingulate gyrus"),
    ],
    "AAL": [("Precentral_L", "Precentral_R"), ("Hippocampus (L)", "Hippocampus (R)")],
    "German": [
        ("Hippocampus links", "Hippocampus rechts"),
        ("linke Niere", "rechte Niere"),
        ("linker Seitenventrikel", "rechter Seitenventrikel"),
        ("Niere li.", "Niere re."),
        ("NiereLinks", "NiereRechts"),
    ],
    "Spanish": [
        ("hipocampo izquierdo", "hipocampo derecho"),
        ("amígdala_izquierda", "amígdala_derecha"),
        ("riñón izq.", "riñón der."),
    ],
    "French": [
        ("rein gauche", "rein droit"),
        ("amygdale gauche", "amygdale droite"),
        ("gyrus droit gauche", "gyrus droit droit"),
    ],
    "Latin": [
        ("hippocampus sinister", "hippocampus dexter"),
        ("insula sinistra", "insula dextra"),
        ("cerebellum sinistrum", "cerebellum dextrum"),
    ],
    "Italian": [("rene sinistro", "rene destro"), ("rene sx", "rene dx")],
    "Portuguese": [("rim esquerdo", "rim direito"), ("mama esquerda", "mama direita")],
    "Russian": [("левая почка", "правая почка")],
    "Chinese": [("左肾", "右肾")],
    "short": [
        ("L. insula", "R. insula"),
        ("insula_l", "insula_r"),
        ("insulaL", "insulaR"),
        ("LInsula", "RInsula"),
        ("lhInsula", "rhInsula"),
        ("BA44L", "BA44R"),
        ("Lt kidney", "Rt kidney"),
    ],
}


@pytest.mark.parametrize("tongue", PAIRS)
def test_sides_are_exchanged_in_tables_of_many_tongues(tongue):
    names = [name for pair in PAIRS[tongue] for name in pair] + ["brainstem"]
    table = LabelTable.from_values(range(len(names) + 1), dict(enumerate(names, start=1)))
    found = {
        label.name: table.names[table.partner_classes[i]] for i, label in enumerate(table.labels)
    }
    wanted = {one: other for pair in PAIRS[tongue] for one, other in (pair, pair[::-1])}

    assert found == {"background": "background", "brainstem": "brainstem"} | wanted
    assert table.can_mirror
    assert table.side_note() is None


@pytest.mark.parametrize(
    "name",
    [
        "rechte Niere", "Niere links", "rein gauche", "riñón derecho", "arteria dextra", "rene dx",
        "kidney_l", "L. insula", "left ventricle", "kidney (R)", "levier LINKS", "右肾",
    ],
)  # fmt: skip
def test_a_side_without_a_partner_is_never_mirrored(name):
    table = LabelTable.from_values([1, 2], {1: name, 2: "brainstem"})

    assert not table.can_mirror
    with pytest.raises(SettingsError, match="has a side but no partner"):
        _ = table.partner_classes


@pytest.mark.parametrize(
    "name",
    [
        "vertebra_L1", "bright spot", "cleft", "CSF", "leftover", "4th Ventricle", "T12", "Corpus callosum", "CC_Posterior",
        "Cerebellar Vermal Lobules I-V", "muscle de la jambe", "arteria der Haut", "non-WM-hypointensities",
    ],
)  # fmt: skip
def test_names_without_a_side_have_none(name):
    assert not has_side(name)
    assert LabelTable.from_values([1], {1: name}).can_mirror


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lkid", "rkid"), ("HIPPOCAMPUSL", "HIPPOCAMPUSR"), ("insula_G", "insula_D"),
        ("insula S", "insula D"), ("rim_e", "rim_d"), ("hipocampo (I)", "hipocampo (D)"),
    ],
)  # fmt: skip
def test_what_may_be_sides_is_asked_about_and_not_mirrored(one, other):
    table = LabelTable.from_values([1, 2, 3], {1: one, 2: other, 3: "stem"})

    assert partners({1: one, 2: other}) == {}
    assert not table.can_mirror
    assert one in table.side_note()
    with pytest.raises(SettingsError, match="may have a side"):
        _ = table.partner_classes


def test_a_label_that_is_its_own_partner_has_no_side(tmp_path):
    (tmp_path / "labels.csv").write_text("value,name,partner\n1,lobe i,1\n2,lobe d,2\n")
    table = load_label_table(tmp_path / "labels.csv")

    assert table.can_mirror
    assert table.partner_classes == (0, 1, 2)


def test_letters_that_number_parts_are_no_sides():
    names = {n: f"zone {letter}" for n, letter in enumerate("abcdefgi", start=1)}

    assert LabelTable.from_values(names, names).can_mirror


def test_two_names_for_one_other_side_are_asked_about():
    table = LabelTable.from_values([1, 2, 3], {1: "gauche", 2: "droit", 3: "droite"})

    assert not table.can_mirror
