/* runtime/wire/method.c -- the methods by name. */
#include "runtime/wire/method.h"
#include "runtime/base/half.h"

_Static_assert((int)RT_DTYPE_F32 == (int)WIRE_F32 && (int)RT_DTYPE_F16 == (int)WIRE_F16 &&
                   (int)RT_DTYPE_BF16 == (int)WIRE_BF16,
               "a dtype of a message is one of runtime/base/half.h");

#define C RT_ROLE_DATA_COMPOSE
#define M RT_ROLE_MIDDLEWARE
#define E RT_ROLE_EMBEDDING_SERVER
#define T RT_ROLE_TRAINER

const struct wire_method_info wire_methods[] = {
    {WIRE_PUT_BATCH, "PutBatch", C, M},
    {WIRE_LOOKUP_BATCH, "LookupBatch", T, M},
    {WIRE_PUSH_GRADIENTS, "PushGradients", T, M},
    {WIRE_RELEASE_BATCH, "ReleaseBatch", T, M},
    {WIRE_TRAIN_BATCH, "TrainBatch", C, T},
    {WIRE_AWAIT_PHASE, "AwaitPhase", C, T},
    {WIRE_END_OF_EPOCH, "EndOfEpoch", C, T},
    {WIRE_NOTHING_YET, "NothingYet", C, T},
    {WIRE_LOOKUP_ROWS, "LookupRows", M, E},
    {WIRE_APPLY_GRADIENTS, "ApplyGradients", M, E},
    {WIRE_STEP_HEADER, "StepHeader", T, T},
    {WIRE_JOIN_GROUP, "JoinGroup", T, T},
    {WIRE_FETCH_STATE, "FetchState", T, T},
    {WIRE_REDUCE_CHUNK, "ReduceChunk", T, T},
    {WIRE_TELL_PHASE, "TellPhase", T, T},
    {WIRE_SCORES, "Scores", T, T},
    {WIRE_NOTE_FINISHED, "NoteFinished", T, T},
    {WIRE_TELL_FINISHED, "TellFinished", C, T},
    {WIRE_CUT, "Cut", T, E},
    {WIRE_AWAIT_CUT, "AwaitCut", T, E},
    {WIRE_END_CUT, "EndCut", T, E},
    {WIRE_TELL_LEDGER, "TellLedger", T, E},
    {WIRE_GO_BACK_ROWS, "GoBackRows", T, E},
    {WIRE_GO_BACK, "GoBack", T, T},
    {WIRE_ASK_COMMUNICATOR, "AskCommunicator", T, T},
};
const size_t wire_method_count = sizeof(wire_methods) / sizeof(wire_methods[0]);

const char *wire_method_name(uint16_t method)
{
    for (size_t i = 0; i < wire_method_count; i++) {
        if (wire_methods[i].method == method)
            return wire_methods[i].name;
    }
    return NULL;
}
