"""The held recommendation sets: sizes, and the figures of the most popular items."""

import pytest

from graphkit import data
from graphkit.errors import DatasetNotFoundError
from graphkit.models import MostPop
from graphkit.tasks import create_task

# Recall and NDCG at 20 of the most popular items, on the published splits; counted for this
# project, not published.
MOST_POPULAR = {
    "ml-1m": (0.1161, 0.1176),
    "amazon-cds": (0.0122, 0.0071),
    "gowalla": (0.0416, 0.0317),
    "yelp2018": (0.0125, 0.0101),
    "lastfm": (0.0360, 0.0207),
    "amazon-electronics": (0.0893, 0.0490),
}


@pytest.mark.filterwarnings("ignore:.*chooses the epoch on the TEST pairs")
@pytest.mark.usefixtures("one_thread", "data_root")
@pytest.mark.parametrize("name", MOST_POPULAR)
def test_sizes_and_most_popular_items(name):
    try:
        dataset = data.load(name, protocol="official")
    except DatasetNotFoundError as missing:
        pytest.skip(str(missing).splitlines()[0])
    published = dataset.card.published
    assert (dataset.num_users, dataset.num_items) == (published["users"], published["items"])
    assert dataset.interactions.num_pairs == published["train"]
    assert dataset.held["test"].num_pairs == published["test"]
    missing_users = int((dataset.interactions.user_degree == 0).sum())
    assert missing_users == (14 if name == "lastfm" else 0)
    task, model = create_task(dataset), MostPop(dataset.num_users, dataset.num_items)
    batch = next(iter(task.loader("test")))
    found = task.evaluate(task.apply(model, batch), task.target(batch))
    assert (round(found["recall@20"], 4), round(found["ndcg@20"], 4)) == MOST_POPULAR[name]
