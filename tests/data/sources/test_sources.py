"""Where images come from: what is found, what it is called, and what is said when it is not."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet as parquet
import pytest

from archives import items_of
from masktas.data.sources import FileSource, ParquetSource, class_index, open_source
from masktas.data.sources.base import named_classes
from masktas.data.sources.files import RUN_FILES
from masktas.errors import DataError, LabelError


def write_files(root, noise, names):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(number))
    return root


def names_of(source):
    return [item.name for item in items_of(source)]


def contents_of(source):
    return [item.content for item in items_of(source)]


def declared_by(source):
    return [item.is_test for item in items_of(source)]


def labels_of(source):
    values = [source.labels(shard) for shard in range(source.num_shards)]
    return class_index([value for some in values for value in some])


def test_flat_folder_gives_every_file_its_own_bytes(tmp_path, noise):
    source = open_source(write_files(tmp_path, noise, ["b.png", "a.png", "c.png"]))
    assert names_of(source) == ["a.png", "b.png", "c.png"]
    assert contents_of(source) == [noise(1), noise(0), noise(2)]


def test_folder_can_be_given_as_text(tmp_path, noise):
    write_files(tmp_path, noise, ["a.png"])
    assert len(items_of(open_source(str(tmp_path)))) == 1


def test_nested_folder_is_walked_and_named_below_the_root(tmp_path, noise):
    names = ["cat/1.png", "cat/deep/er/2.png", "dog/1.png", "top.png"]
    assert names_of(open_source(write_files(tmp_path, noise, names))) == names


def test_order_does_not_hang_on_the_order_of_writing(tmp_path, noise):
    names = ["x/2.png", "x/1.png", "a/9.png", "m.png"]
    first = open_source(write_files(tmp_path / "one", noise, names))
    second = open_source(write_files(tmp_path / "two", noise, names[::-1]))
    assert names_of(first) == names_of(second)


@pytest.mark.parametrize(
    "name", ["a.JPG", "a.Jpeg", "a.PNG", "a.bmp", "a.GIF", "a.webp", "a.TIF", "a.tiff", "a.pgm"]
)
def test_suffixes_are_found_in_any_case(tmp_path, noise, name):
    assert names_of(open_source(write_files(tmp_path, noise, [name]))) == [name]


def test_other_files_are_left_alone(tmp_path, noise):
    write_files(tmp_path, noise, ["a.png", "notes.txt", "labels.csv", "png", "Thumbs.db"])
    assert names_of(open_source(tmp_path)) == ["a.png"]


@pytest.mark.parametrize("hidden", [".b.png", "._a.png", ".cache/c.png", "cat/.thumbs/d.png"])
def test_hidden_files_and_folders_are_ignored(tmp_path, noise, hidden):
    write_files(tmp_path, noise, ["a.png", hidden])
    assert names_of(open_source(tmp_path)) == ["a.png"]


@pytest.mark.parametrize("mark", ["settings.json", "store.json"])
def test_pictures_that_a_run_has_written_are_not_its_images(tmp_path, noise, mark):
    write_files(tmp_path, noise, ["a.png", "run/supernet/reconstructions.png"])
    keys = dict.fromkeys(RUN_FILES[mark])
    (tmp_path / "run" / "supernet" / mark).write_text(json.dumps(keys))
    assert names_of(open_source(tmp_path)) == ["a.png"]


def test_linked_folder_is_followed(tmp_path, noise):
    write_files(tmp_path / "elsewhere", noise, ["1.png"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    assert names_of(open_source(tmp_path / "data")) == ["cat/1.png"]


def test_link_back_to_its_own_folder_does_not_count_images_twice(tmp_path, noise):
    write_files(tmp_path, noise, ["cat/1.png"])
    (tmp_path / "cat" / "again").symlink_to(tmp_path)
    assert len(items_of(open_source(tmp_path))) == 1


def test_file_that_went_away_is_an_item_with_its_problem(tmp_path, noise):
    source = open_source(write_files(tmp_path, noise, ["a.png", "b.png"]))
    (tmp_path / "b.png").unlink()
    gone = source.read(0, 1)
    assert (gone.name, gone.content) == ("b.png", None)
    assert gone.problem == "cannot be read (No such file or directory)"


def test_folder_called_test_is_its_own_test_split(tmp_path, noise):
    names = ["test/cat/1.png", "train/cat/1.png", "train/test/1.png", "train/test.png"]
    source = open_source(write_files(tmp_path, noise, names))
    assert declared_by(source) == [True, False, False, False]


def test_folder_called_test_in_capitals_counts_too(tmp_path, noise):
    source = open_source(write_files(tmp_path, noise, ["TEST/1.png", "Train/1.png"]))
    assert declared_by(source) == [True, False]


def test_image_called_test_is_no_test_split(tmp_path, noise):
    source = open_source(write_files(tmp_path, noise, ["test.png", "testing/1.png"]))
    assert not any(declared_by(source))


def test_fingerprint_changes_with_content_and_only_then(tmp_path, noise):
    write_files(tmp_path, noise, ["a.png", "b.png"])
    before = open_source(tmp_path).fingerprint()
    assert open_source(tmp_path).fingerprint() == before
    (tmp_path / "b.png").write_bytes(noise(7, size=(9, 9)))
    changed = open_source(tmp_path).fingerprint()
    assert changed != before
    (tmp_path / "c.png").write_bytes(noise(8))
    assert open_source(tmp_path).fingerprint() != changed


# Parquet


def test_parquet_file_gives_its_rows_in_order(tmp_path, noise, write_table):
    source = open_source(write_table(tmp_path / "pets.parquet", [noise(i) for i in range(5)]))
    assert contents_of(source) == [noise(i) for i in range(5)]
    assert source.read(0, 3).name == "pets.parquet row 3"
    assert not any(declared_by(source))


def test_folder_of_parquet_joins_its_files_and_knows_the_test_rows(tmp_path, noise, write_table):
    write_table(tmp_path / "train-00000.parquet", [noise(i) for i in range(3)])
    write_table(tmp_path / "train-00001.parquet", [noise(i) for i in range(3, 5)])
    write_table(tmp_path / "test-00000.parquet", [noise(i) for i in range(5, 9)])
    source = open_source(tmp_path)
    names = names_of(source)
    assert names == [f"test-00000.parquet row {i}" for i in range(4)] + [
        f"train-00000.parquet row {i}" for i in range(3)
    ] + [f"train-00001.parquet row {i}" for i in range(2)]
    assert contents_of(source) == [noise(i) for i in (5, 6, 7, 8, 0, 1, 2, 3, 4)]
    assert declared_by(source) == [True] * 4 + [False] * 5


def test_empty_parquet_file_among_others_shifts_nothing(tmp_path, noise, write_table):
    write_table(tmp_path / "a.parquet", [noise(0)])
    write_table(tmp_path / "b.parquet", [])
    write_table(tmp_path / "c.parquet", [noise(1)])
    source = open_source(tmp_path)
    assert names_of(source) == ["a.parquet row 0", "c.parquet row 0"]
    assert contents_of(source) == [noise(0), noise(1)]


def test_parquet_of_many_row_groups_is_read_right(tmp_path, noise, write_table):
    path = write_table(tmp_path / "a.parquet", [noise(i) for i in range(10)])
    parquet.write_table(parquet.read_table(path), path, row_group_size=3)
    source = open_source(path)
    assert [source.read(0, index).content for index in (9, 0, 3, 5)] == [
        noise(i) for i in (9, 0, 3, 5)
    ]


@pytest.mark.parametrize("content", [None, b""])
def test_row_without_image_is_an_item_with_its_problem(tmp_path, noise, write_table, content):
    source = open_source(write_table(tmp_path / "a.parquet", [noise(0), content]))
    good, bad = items_of(source)
    assert good.content == noise(0)
    assert (bad.name, bad.content) == ("a.parquet row 1", None)
    assert "no image" in bad.problem
    assert source.read(0, 1) == bad


def test_null_struct_is_an_item_with_its_problem(tmp_path, noise):
    column = pyarrow.array([{"bytes": noise(0), "path": ""}, None])
    parquet.write_table(pyarrow.table({"image": column}), tmp_path / "a.parquet")
    good, bad = items_of(open_source(tmp_path))
    assert (good.content, bad.content) == (noise(0), None)


def test_parquet_suffix_is_found_in_any_case(tmp_path, noise, write_table):
    path = write_table(tmp_path / "A.PARQUET", [noise(0)])
    assert len(items_of(open_source(path))) == 1
    assert len(items_of(open_source(tmp_path))) == 1


def test_hidden_parquet_files_are_ignored(tmp_path, noise, write_table):
    write_table(tmp_path / "a.parquet", [noise(0)])
    (tmp_path / "._a.parquet").write_bytes(b"what macOS leaves on foreign disks")
    assert len(items_of(open_source(tmp_path))) == 1


def test_parquet_fingerprint_changes_with_content(tmp_path, noise, write_table):
    path = write_table(tmp_path / "a.parquet", [noise(0)])
    before = open_source(path).fingerprint()
    assert open_source(path).fingerprint() == before
    write_table(path, [noise(0), noise(1)])
    assert open_source(path).fingerprint() != before


def test_reading_one_file_does_not_load_the_others(tmp_path, noise, write_table):
    write_table(tmp_path / "a.parquet", [noise(0)])
    second = write_table(tmp_path / "b.parquet", [noise(1)])
    source = open_source(tmp_path)
    second.unlink()
    assert source.read(0, 0).content == noise(0)


def test_damaged_image_column_is_a_data_error_with_the_file(
    tmp_path, noise, write_table, damage_column
):
    path = write_table(tmp_path / "a.parquet", [noise(i) for i in range(20)])
    damage_column(path, "image.bytes")
    with pytest.raises(DataError, match=r"a\.parquet"):
        list(open_source(path).stream(0))


# What is refused


def test_missing_path_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: there is no such file or folder"):
        open_source(tmp_path / "nowhere")


def test_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"no images in it.*\.jpg.*\.parquet"):
        open_source(tmp_path)


def test_folder_without_images_says_the_same(tmp_path, noise):
    write_files(tmp_path, noise, ["notes.txt", "deep/er/more.csv"])
    with pytest.raises(DataError, match="no images in it"):
        open_source(tmp_path)


def test_single_image_is_refused_with_what_to_give(tmp_path, noise):
    write_files(tmp_path, noise, ["a.png"])
    with pytest.raises(DataError, match=r"a\.png: give the folder that holds the images"):
        open_source(tmp_path / "a.png")


def test_parquet_without_image_column_says_what_is_expected(tmp_path):
    parquet.write_table(pyarrow.table({"label": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: no column of images.*Hugging Face"):
        open_source(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "column", [["words"], [3], [{"path": "only.png"}]], ids=["words", "number", "no bytes"]
)
def test_parquet_with_another_image_column_says_what_is_expected(tmp_path, column):
    parquet.write_table(pyarrow.table({"image": column}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column of images"):
        open_source(tmp_path)


def test_parquet_without_rows_is_refused(tmp_path, write_table):
    write_table(tmp_path / "a.parquet", [])
    with pytest.raises(DataError, match="hold no rows"):
        open_source(tmp_path / "a.parquet")


def test_text_called_parquet_is_refused_by_name(tmp_path):
    (tmp_path / "a.parquet").write_text("image,label\n1.png,3\n")
    with pytest.raises(DataError, match=r"a\.parquet: not a parquet file that can be read"):
        open_source(tmp_path / "a.parquet")


def test_truncated_parquet_is_refused_by_name(tmp_path, noise, write_table):
    path = write_table(tmp_path / "a.parquet", [noise(i) for i in range(10)])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"a\.parquet: not a parquet file"):
        open_source(tmp_path)


# Labels


def test_labels_of_folders_are_numbered_in_sorted_order(tmp_path, noise):
    names = ["train/zebra/1.png", "train/ant/1.png", "train/ant/2.png", "test/cat/1.png"]
    source = open_source(write_files(tmp_path, noise, names))
    labels, classes = labels_of(source)
    assert classes == ["ant", "cat", "zebra"]
    said = {name: classes[label] for name, label in zip(names_of(source), labels, strict=True)}
    assert said == {name: name.split("/")[1] for name in names}


def test_labels_of_a_column_are_numbered_in_sorted_order(tmp_path, noise, write_table):
    path = write_table(tmp_path / "a.parquet", [noise(i) for i in range(4)], [10, 9, 200, 9])
    assert labels_of(open_source(path)) == ([1, 0, 2, 0], ["9", "10", "200"])


def test_labels_may_be_words_and_span_files(tmp_path, noise, write_table):
    write_table(tmp_path / "train.parquet", [noise(0), noise(1)], ["dog", "cat"])
    write_table(tmp_path / "test.parquet", [noise(2)], ["eel"])
    assert labels_of(open_source(tmp_path)) == ([2, 1, 0], ["cat", "dog", "eel"])


@pytest.mark.parametrize(
    "names",
    [["1.png", "2.png"], ["cat/1.png", "2.png"], ["train/1.png", "test/2.png"], ["Valid/1.png"]],
    ids=["flat", "partly flat", "splits only", "split in capitals"],
)
def test_images_outside_class_folders_have_no_labels(tmp_path, noise, names):
    source = open_source(write_files(tmp_path, noise, names))
    with pytest.raises(LabelError, match="Put each class into a folder of its own"):
        labels_of(source)


def test_missing_label_column_is_named(tmp_path, noise, write_table):
    write_table(tmp_path / "a.parquet", [noise(0)], [1])
    write_table(tmp_path / "b.parquet", [noise(1)])
    with pytest.raises(LabelError, match=r"b\.parquet: no column label"):
        labels_of(open_source(tmp_path))


@pytest.mark.parametrize("missing", [None, float("nan")], ids=["null", "not a number"])
def test_rows_without_label_are_refused(tmp_path, noise, write_table, missing):
    labels = [1.0, missing, 2.0, missing]
    path = write_table(tmp_path / "a.parquet", [noise(i) for i in range(4)], labels)
    with pytest.raises(LabelError, match="some rows have no label"):
        labels_of(open_source(path))


def test_several_labels_a_row_are_refused(tmp_path, noise, write_table):
    path = write_table(tmp_path / "a.parquet", [noise(0), noise(1)], [[1, 2], [3]])
    with pytest.raises(LabelError):
        labels_of(open_source(path))


def test_labels_of_mixed_kinds_are_refused(tmp_path, noise, write_table):
    write_table(tmp_path / "a.parquet", [noise(0)], [1])
    write_table(tmp_path / "b.parquet", [noise(1)], ["cat"])
    with pytest.raises(LabelError):
        labels_of(open_source(tmp_path))


def test_reading_images_does_not_touch_the_label_column(
    tmp_path, noise, write_table, damage_column
):
    images = [noise(i) for i in range(50)]
    path = write_table(tmp_path / "a.parquet", images, list(range(50)))
    damage_column(path, "label")
    with pytest.raises(OSError, match=r"\w"):  # there are no labels to be had
        parquet.read_table(path, columns=["label"])
    source = open_source(path)
    assert contents_of(source) == images


def test_damaged_label_column_is_a_label_error_with_the_file(
    tmp_path, noise, write_table, damage_column
):
    path = write_table(tmp_path / "a.parquet", [noise(i) for i in range(50)], list(range(50)))
    damage_column(path, "label")
    with pytest.raises(LabelError, match=r"a\.parquet"):
        labels_of(open_source(path))


def test_sources_are_opened_as_what_they_are(tmp_path, noise, write_table):
    write_files(tmp_path / "files", noise, ["a.png"])
    (tmp_path / "tables").mkdir()
    write_table(tmp_path / "tables" / "a.parquet", [noise(0)])
    assert isinstance(open_source(tmp_path / "files"), FileSource)
    assert isinstance(open_source(tmp_path / "tables"), ParquetSource)


@pytest.mark.parametrize("missing", [-1, None, 2, "cat"])
def test_a_number_that_is_no_class_is_a_missing_label(missing):
    assert named_classes([1, 0, 1], ["cat", "dog"]) == ["dog", "cat", "dog"]
    with pytest.raises(LabelError, match="have no label"):
        named_classes([1, 0, missing], ["cat", "dog"])
