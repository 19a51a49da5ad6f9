"""Short labels of stores: names where there is room for them, else letters."""

from classify.report.names import label_lines, store_labels


def record(*names, fused=None):
    stores = [{"store": name, "parts": []} for name in names]
    return {"stores": stores + ([{"store": "+".join(fused), "parts": list(fused)}] if fused else [])}


def test_names_with_room_stay():
    assert store_labels(record("vgg16", "resnet50")) == {"vgg16": "vgg16", "resnet50": "resnet50"}
    alone = "a_single_store_whatever_its_name"
    assert store_labels(record(alone)) == {alone: alone}
    assert label_lines(record("vgg16", "resnet50")) == []


def test_long_names_become_letters_and_a_fused_store_has_those_of_its_parts():
    made = record("efficientnet_lite0+levels", "vgg16", fused=("efficientnet_lite0+levels", "vgg16"))
    assert store_labels(made) == {
        "efficientnet_lite0+levels": "A",
        "vgg16": "B",
        "efficientnet_lite0+levels+vgg16": "A+B",
    }
    assert label_lines(made) == ["Stores: A: efficientnet_lite0+levels, B: vgg16, A+B: their features fused"]
