"""Near duplicates: copies are found, different pictures are not, bland ones do not chain together."""

import io
from dataclasses import dataclass

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance
from skimage import data

from featurize.errors import StoreError
from featurize.images import duplicates
from featurize.images.duplicates import HASH_BITS, connected_components, near_duplicates

SIDE = 224


@dataclass
class Seen:
    """What a store keeps of pictures."""

    phash: np.ndarray
    thumbnail: np.ndarray


def look(images):
    hashes, thumbnails = [], []
    for image in images:
        square = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        hashes.append(int(str(imagehash.phash(square)), 16))
        thumbnails.append(np.asarray(square.resize((32, 32), Image.Resampling.BOX)))
    return Seen(phash=np.array(hashes, dtype=np.uint64), thumbnail=np.stack(thumbnails))


def find(images):
    seen = look(images)
    return [tuple(pair) for pair in near_duplicates(seen.phash, seen.thumbnail).tolist()]


def as_jpeg(image, *, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def smaller(image, *, by):
    return image.resize((round(image.width / by), round(image.height / by)), Image.Resampling.LANCZOS)


def cut(image):
    edge = image.width // 100
    return image.crop((edge, edge, image.width - edge, image.height - edge))


COPIES = {
    "jpeg at quality 70": lambda image: as_jpeg(image, quality=70),
    "jpeg at quality 30": lambda image: as_jpeg(image, quality=30),
    "half the size": lambda image: smaller(image, by=2),
    "a third of the size, jpeg": lambda image: as_jpeg(smaller(image, by=3), quality=60),
    "10 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "15 % darker": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
    "20 % more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.2),
    "less colour": lambda image: ImageEnhance.Color(image).enhance(0.7),
}


@pytest.fixture(scope="module")
def photographs():
    names = ("astronaut", "chelsea", "coffee", "rocket")
    return [Image.fromarray(getattr(data, name)()) for name in names]


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES.keys())
def test_copies_are_found_and_different_photographs_are_not(photographs, copy):
    n = len(photographs)
    assert find([*photographs, *map(copy, photographs)]) == [(k, k + n) for k in range(n)]


def test_a_mirrored_or_recoloured_image_is_not_a_duplicate(photographs):
    for image in photographs:
        red, green, blue = image.split()
        assert find([image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]) == []
        assert find([image, Image.merge("RGB", (blue, red, green))]) == []


def flat(red, green, blue):
    return Image.new("RGB", (300, 200), (red, green, blue))


def page(x, y, *, paper="white"):
    image = Image.new("RGB", (600, 800), paper)
    ImageDraw.Draw(image).rectangle((x, y, x + 60, y + 40), fill="black")
    return image


def test_flat_images_with_one_hash_are_distinguished_by_colour():
    images = [flat(250, 250, 250), flat(0, 0, 0), flat(200, 30, 30), flat(30, 30, 200), flat(251, 250, 249)]
    assert len(set(look(images).phash.tolist())) < len(images)  # hashes alone would chain them together
    assert find(images) == [(0, 4)]


def test_a_hundred_flat_colours_are_not_connected():
    images = [flat(r, g, b) for r in range(0, 250, 50) for g in range(0, 250, 50) for b in range(0, 250, 60)]
    assert find(images) == []


def test_almost_empty_pages_are_distinguished_by_their_content():
    pages = [page(x, y) for x in (40, 240, 440) for y in (60, 360, 660)]
    seen = look(pages)
    same_hash = np.zeros(len(pages), dtype=np.uint64)  # as bad as a hash can be
    assert near_duplicates(same_hash, seen.thumbnail).tolist() == []
    assert find([*pages, page(40, 60, paper=(245, 245, 240))]) == [(0, len(pages))]
    assert near_duplicates(same_hash[:2], look([page(40, 60), flat(255, 255, 255)]).thumbnail).tolist() == []


def hash_with_bits(*positions):
    return sum(1 << position for position in positions)


def test_four_bits_are_near_and_five_are_not():
    rng = np.random.default_rng(0)
    thumbnail = np.repeat(rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8), 3, axis=0)
    four, other_five = (0, 13, 40, 63), (7, 8, 9, 10, 11)
    phash = np.array([0, hash_with_bits(*four), hash_with_bits(*four, *other_five)], dtype=np.uint64)
    assert HASH_BITS == 4
    assert near_duplicates(phash, thumbnail).tolist() == [[0, 1]]


@pytest.mark.parametrize(("block", "batch"), [(256, 1024), (7, 5), (1, 1)])
def test_the_search_finds_what_comparing_all_pairs_finds(monkeypatch, block, batch):
    rng = np.random.default_rng(1)
    n = 60
    thumbnail = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    phash = rng.integers(0, 2**63, n, dtype=np.uint64)
    for copy, original in ((20, 3), (40, 3), (59, 0), (30, 29)):
        thumbnail[copy] = thumbnail[original]
        phash[copy] = phash[original] ^ np.uint64(hash_with_bits(copy % 64, 5))
    phash[50] = phash[10]  # the hash agrees, the picture does not
    thumbnail[51] = thumbnail[11]  # the picture agrees, the hash does not
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    monkeypatch.setattr(duplicates, "_BATCH", batch)

    number = connected_components(n, near_duplicates(phash, thumbnail))

    sets = [np.flatnonzero(number == k).tolist() for k in range(number.max() + 1)]
    assert [s for s in sets if len(s) > 1] == [[0, 59], [3, 20, 40], [29, 30]]


def test_numbers_follow_first_appearance():
    np.testing.assert_array_equal(
        connected_components(6, np.array([[4, 1], [5, 0], [1, 3]])), [0, 1, 2, 1, 1, 0]
    )


def test_no_images_have_no_duplicates():
    empty = near_duplicates(np.empty(0, dtype=np.uint64), np.empty((0, 32, 32, 3), dtype=np.uint8))
    assert empty.shape == (0, 2)
    assert connected_components(0, empty).shape == (0,)


def test_hashes_without_thumbnails_are_refused():
    with pytest.raises(StoreError, match="2 perceptual hashes but 1 thumbnails"):
        near_duplicates(np.zeros(2, dtype=np.uint64), np.zeros((1, 32, 32, 3), dtype=np.uint8))


def test_shared_photographs_have_no_near_duplicates_except_copies(shared_data):
    files = sorted((shared_data / "food3" / "test").rglob("*.jpg"))
    images = [Image.open(file).convert("RGB") for file in files]
    copies = [as_jpeg(smaller(image, by=1.5), quality=50) for image in images]
    assert find([*images, *copies]) == [(k, k + len(images)) for k in range(len(images))]


@pytest.mark.parametrize("blank", [0, 600])
def test_tables_find_what_comparing_all_pairs_finds(monkeypatch, blank):
    """Chains of hashes 0 to 6 bits apart, clusters of one hash, pictures that agree and that do not."""
    generator = np.random.default_rng(0)
    first = generator.integers(2**64, size=700, dtype=np.uint64)
    other = first[generator.integers(700, size=500)]
    for k, n_bits in enumerate(generator.integers(0, 7, 500)):
        for bit in generator.choice(64, n_bits, replace=False):
            other[k] ^= np.uint64(1) << np.uint64(bit)
    phash = np.concatenate([first, other, np.full(blank, first[0])])
    pictures = generator.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    pictures[0] = 250  # flat
    row = np.concatenate([generator.integers(8, size=1200), np.zeros(blank, dtype=np.int64)])
    order = generator.permutation(len(phash))
    phash, row = phash[order], row[order]
    expected = connected_components(len(phash), near_duplicates(phash, pictures, rows=row))
    monkeypatch.setattr("featurize.images.duplicates.TABLES_ABOVE", 10)
    monkeypatch.setattr("featurize.images.duplicates._PAIRS", 1 << 10)  # in several batches
    found = near_duplicates(phash, pictures, rows=row)
    assert np.array_equal(connected_components(len(phash), found), expected)
    assert len(np.unique(expected)) < len(phash) - 40


def test_many_images_without_duplicates_are_compared_by_tables():
    generator = np.random.default_rng(1)
    phash = generator.integers(2**64, size=30_000, dtype=np.uint64)
    phash[29_999] = phash[7] ^ np.uint64(0b1011)
    pictures = np.full((1, 32, 32, 3), 9, dtype=np.uint8)
    rows = np.zeros(30_000, dtype=np.int64)
    assert near_duplicates(phash, pictures, rows=rows).tolist() == [[7, 29_999]]
