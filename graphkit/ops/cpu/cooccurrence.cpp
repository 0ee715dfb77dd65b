// The columns that share most rows with each column of a bipartite graph, by normalised counts; the
// matrix of counts exists one row at a time.
#include <algorithm>
#include <utility>
#include <vector>

#include "features.h"
#include "binding.h"

namespace nb = nanobind;

namespace graphkit {
namespace {

struct Cooccurrence {
  Graph rows, cols;            // a graph, and the transposed one
  const double *left, *right;  // [cols]: a count of i and j weighs count * left[i] * right[j]
  int64_t k;
  bool itself;                 // a column is its own neighbour, too
  int64_t *neighbours;         // [cols, k]
  double *weights;             // [cols, k]
  int threads;
};

using Found = std::pair<double, int64_t>;

// Heavier first, then the smaller id.
bool before(const Found &a, const Found &b) {
  return a.first > b.first || (a.first == b.first && a.second < b.second);
}

class CooccurrenceKernel {
 public:
  explicit CooccurrenceKernel(const Cooccurrence &a)
      : a_(a), rows_(a.rows), cols_(a.cols), row_col_(a.rows.col, a.rows.index_bits),
        col_row_(a.cols.col, a.cols.index_bits) {}

  Fault run() {
    const int64_t n = a_.cols.num_rows;
    const int threads = threads_for(a_.rows.num_entries, a_.threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      std::vector<int64_t> counts(size_t(n), 0);
      std::vector<Found> found;
#pragma omp for schedule(dynamic, 16)
      for (int64_t i = 0; i < n; ++i) {
        found.clear();
        count(i, counts, found);
        write(i, counts, found);
      }
    }
    return fault_.result();
  }

 private:
  // Every column that shares a row with column i, and in how many rows.
  void count(int64_t i, std::vector<int64_t> &counts, std::vector<Found> &found) {
    const Range users = cols_.entries(i, fault_);
    for (int64_t k = users.begin; k < users.end; ++k) {
      const int64_t row = col_row_.checked(k, a_.rows.num_rows, Fault::col, fault_);
      if (row < 0) continue;
      const Range entries = rows_.entries(row, fault_);
      for (int64_t e = entries.begin; e < entries.end; ++e) {
        const int64_t j = row_col_.checked(e, a_.cols.num_rows, Fault::col, fault_);
        if (j < 0) continue;
        if (counts[size_t(j)]++ == 0) found.emplace_back(0.0, j);
      }
    }
  }

  void write(int64_t i, std::vector<int64_t> &counts, std::vector<Found> &found) const {
    for (Found &f : found) {
      f.first = double(counts[size_t(f.second)]) * a_.left[i] * a_.right[f.second];
      counts[size_t(f.second)] = 0;
    }
    if (!a_.itself)
      found.erase(std::remove_if(found.begin(), found.end(), [&](const Found &f) { return f.second == i; }),
                  found.end());
    const int64_t most = std::min<int64_t>(a_.k, int64_t(found.size()));
    std::partial_sort(found.begin(), found.begin() + most, found.end(), before);
    int64_t *const neighbours = a_.neighbours + i * a_.k;
    double *const weights = a_.weights + i * a_.k;
    for (int64_t n = 0; n < most; ++n) {
      weights[n] = found[size_t(n)].first;
      neighbours[n] = found[size_t(n)].second;
    }
    // What shares no row weighs nothing; the smallest ids that are not there yet.
    int64_t next = 0;
    for (int64_t n = most; n < a_.k; ++next) {
      if ((next == i && !a_.itself) || std::find(neighbours, neighbours + n, next) != neighbours + n)
        continue;
      neighbours[n] = next;
      weights[n++] = 0;
    }
  }

  const Cooccurrence &a_;
  const Rows rows_, cols_;
  const Index row_col_, col_row_;
  FaultFlag fault_;
};

void cooccurrence(GraphTuple rows, GraphTuple cols, Address left, Address right, int64_t k,
                  bool itself, Address neighbours, Address weights, int threads) {
  const Cooccurrence a{graph_of(rows), graph_of(cols), at<double>(left), at<double>(right), k,
                       itself, at<int64_t>(neighbours), at<double>(weights), threads};
  const int64_t others = a.cols.num_rows - (itself ? 0 : 1);
  if (k < 0 || k > std::max<int64_t>(others, 0))
    throw nb::value_error(("k: " + std::to_string(k) + ", wanted at most " +
                           std::to_string(others)).c_str());
  Fault fault;
  {
    nb::gil_scoped_release release;
    fault = CooccurrenceKernel(a).run();
  }
  check(fault);
}

}  // namespace

void bind_cooccurrence(nb::module_ &m) { m.def("cooccurrence", &cooccurrence); }

}  // namespace graphkit
