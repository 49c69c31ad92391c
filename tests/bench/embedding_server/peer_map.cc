/* tests/bench/embedding_server/peer_map.cc -- std::unordered_map from an id to a row from malloc, as one would write it.
 *
 *   peer_map RESULTS      adds lines to the file; dim 64, as many rows as the other peers have */
#include "tests/bench/embedding_server/entry.h"
#include "tests/bench/embedding_server/measure.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <unordered_map>

namespace
{
constexpr size_t kDim = 64;

struct Peer {
    std::unordered_map<uint64_t, std::unique_ptr<float[]>> map;
    float out[REQUEST_IDS][kDim];
};

void lookup(void *ctx, const uint64_t *id, size_t n)
{
    Peer *peer = static_cast<Peer *>(ctx);

    for (size_t i = 0; i < n; i++) {
        auto found = peer->map.find(id[i]);

        if (found != peer->map.end())
            memcpy(peer->out[i], found->second.get(), sizeof(peer->out[i]));
    }
}

void verify(void *ctx, const uint64_t *position, size_t n)
{
    const Peer *peer = static_cast<const Peer *>(ctx);

    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < kDim; j++)
            if (peer->out[i][j] != static_cast<float>(position[i] % 1024 + j))
                die("unordered_map: another row than was set");
}
} // namespace

int main(int argc, char **argv)
{
    if (argc < 2)
        die("usage: peer_map RESULTS");
    auto peer = std::make_unique<Peer>();
    uint64_t rows = bench_rows(5e6);
    struct ids ids;
    struct rounds rounds = {};

    entry_open(argv[1]);
    for (uint64_t at = 0; at < rows; at++) {
        auto row = std::make_unique<float[]>(kDim);

        for (size_t j = 0; j < kDim; j++)
            row[j] = static_cast<float>(at % 1024 + j);
        peer->map.emplace(ids_of(at), std::move(row));
    }
    ids_init(&ids, IDS_UNIFORM, rows, 1);
    rounds.ids = &ids;
    rounds.as_ids = 1;
    rounds.run = lookup;
    rounds.verify = verify;
    rounds.ctx = peer.get();
    rounds.requests = 32;
    struct entry entry = {"peer_unordered_map_dim64", 1e-6 * bench_rounds(&rounds), "M rows/s", 0, nullptr, 0,
                          false};
    entry_put(&entry);
    std::_Exit(0); // freeing all rows one by one would take seconds
}
