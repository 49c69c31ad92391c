/* runtime/checkpoint/lock.h -- who writes in a checkpoint folder: one process at a time.
 *
 * trainer/0 holds DIR/.lock for as long as it lives, and `saffron rollback` while it works: so two jobs never share a folder, and no
 * job goes on from a checkpoint that is being set aside under it. It is a flock(), which ends with its process however that ends;
 * on NFS it holds between machines too (Linux 2.6.12 and later). What stands in the file is for people: who has it. Reading takes
 * no lock. Any thread. */
#ifndef RT_STORE_LOCK_H
#define RT_STORE_LOCK_H

#define RT_STORE_HOLDER_MAX 256u

/* *lock: give it back by rt_store_unlock(), or end. @who: a line for whoever is refused meanwhile. RT_EFULL: another process holds
 * it, the text says who; RT_EFILE. Does not wait. */
int rt_store_lock(const char *dir, const char *who, int *lock);
void rt_store_unlock(int lock);

#endif
