DROP TABLE blocks, block_list;
