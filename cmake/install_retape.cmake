# Installation: library, headers under include/retape, and a package for find_package(retape).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS retape EXPORT retape_targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES retape.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/retape)
install(DIRECTORY core autograd nn optim io data DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/retape FILES_MATCHING PATTERN "*.h" PATTERN "*.inc")
set(retape_package ${CMAKE_INSTALL_LIBDIR}/cmake/retape)
install(EXPORT retape_targets NAMESPACE retape:: DESTINATION ${retape_package})
configure_package_config_file(cmake/retape-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/retape-config.cmake INSTALL_DESTINATION ${retape_package})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/retape-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/retape-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/retape-config-version.cmake cmake/FindOneDNN.cmake
              cmake/FindLAPACKE.cmake
        DESTINATION ${retape_package})
