"""A data set of TensorFlow Datasets over the photos, prepared without TensorFlow."""

import tensorflow_datasets as tfds

from tests.unit.data import photos


class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
                    "question": tfds.features.Text(),
                    "answer": tfds.features.Text(),
                }
            )
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        for index in range(photos.COUNT):
            found = photos.fields(index)
            yield (
                index,
                {
                    "image": photos.jpeg(index),
                    "captions": [{"text": found["caption"]}, {"text": found["re_caption"]}],
                    "question": found["question"],
                    "answer": found["answer"],
                },
            )
