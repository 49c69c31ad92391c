/* runtime/process/version.h -- of the programs, as semantic versioning has it. */
#ifndef RT_PROCESS_VERSION_H
#define RT_PROCESS_VERSION_H

#define RT_VERSION "0.1.0"

#endif
